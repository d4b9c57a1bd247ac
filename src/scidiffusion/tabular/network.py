"""The network of a mixed-type table: a residual MLP over scores, one-hot codes and "known" flags.

A row enters as [numbers | one-hot categories | flags], where a flag says that a variable is known,
that is shown clean and not to be predicted, and leaves as [eps of the numbers | logits of the
clean categories]. The logits start at the training marginals, so that the untrained network is
already the best guess that knows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from scidiffusion.nn import ResidualMLP


class TableNetwork(nn.Module):
    """Denoising network of a table; called as `network({"num", "cat"}, time, known)`.

    Args:
        numbers: Number of numerical variables d_num.
        cardinalities: Number of classes of each categorical variable.
        width: Width of the residual MLP.
        blocks: Number of its blocks.
        dropout: Dropout rate inside the blocks.
        log_marginals: (sum K,) log-frequencies of all classes, in the order of `cardinalities`.
        bf16: Multiply matrices in bfloat16, in training and in sampling.
    """

    def __init__(
        self,
        numbers: int,
        cardinalities: Sequence[int],
        *,
        width: int,
        blocks: int,
        dropout: float = 0.0,
        log_marginals: Tensor | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.numbers, self.cardinalities = numbers, list(cardinalities)
        self.bf16 = bf16
        classes = sum(self.cardinalities)
        self.mlp = ResidualMLP(
            2 * numbers + classes + len(self.cardinalities),
            numbers + classes,
            width=width,
            blocks=blocks,
            dropout=dropout,
        )
        starts = [sum(self.cardinalities[:index]) for index in range(len(self.cardinalities))]
        self.starts: Tensor
        self.register_buffer("starts", torch.tensor(starts, dtype=torch.long), persistent=False)
        # Where class k of variable j stands among the outputs; padding points anywhere valid.
        most = max(self.cardinalities, default=0)
        places = [
            [start + min(k, count - 1) for k in range(most)]
            for start, count in zip(starts, self.cardinalities, strict=True)
        ]
        self.places: Tensor
        self.register_buffer("places", torch.tensor(places, dtype=torch.long), persistent=False)
        self.log_marginals: Tensor
        if log_marginals is None:
            log_marginals = torch.zeros(classes)
        self.register_buffer("log_marginals", log_marginals.to(torch.float32))

    def forward(
        self, z: Mapping[str, Tensor], time: Tensor, known: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Predict.

        Args:
            z: "num" (B, d_num) float and "cat" (B, d_cat) long, those that the table has.
            time: (B,) in [0, 1].
            known: Flags of the same shapes, bool; None for nothing known.

        Returns:
            "num" (B, d_num) and "cat" (B, d_cat, K) logits, padded to the largest K.
        """
        rows = len(time)
        classes = len(self.log_marginals)
        parts: list[Tensor] = []
        if self.numbers:
            parts.append(z["num"].to(torch.float32))
        if classes:
            hot = torch.zeros(rows, classes, device=time.device)
            parts.append(hot.scatter_(1, z["cat"] + self.starts, 1.0))
        for name, width in (("num", self.numbers), ("cat", len(self.cardinalities))):
            if width and known is None:
                parts.append(torch.zeros(rows, width, device=time.device))
            elif width and known is not None:
                parts.append(known[name].to(torch.float32))
        with torch.autocast(time.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            output = self.mlp(torch.cat(parts, 1), time)
        output = output.to(torch.float32)
        result: dict[str, Tensor] = {}
        if self.numbers:
            result["num"] = output[:, : self.numbers]
        if classes:
            logits = output[:, self.numbers :] + self.log_marginals
            result["cat"] = logits[:, self.places]
        return result
