"""The commands `scidiffusion images fit|sample|inpaint`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scidiffusion.cli.common import friendly_errors, resumable
from scidiffusion.errors import ConditionError
from scidiffusion.persistence import check_writable

if TYPE_CHECKING:
    from scidiffusion.images import ImageDiffusion

images = typer.Typer(no_args_is_help=True, add_completion=False)

Model = Annotated[Path, typer.Option("-m", "--model", help="Folder of the model.")]
Output = Annotated[
    Path,
    typer.Option(
        "-o", "--output", help=".npz, .npy, .png (one picture of all), or a folder of PNGs."
    ),
]
Given = Annotated[
    Path | None, typer.Option(help="Images that are given, one an image: .npy, .npz or a folder.")
]
Caption = Annotated[str | None, typer.Option(help="What to draw, in words of the training.")]
Condition = Annotated[str | None, typer.Option(help="A label, or numbers with commas.")]
Scale = Annotated[float, typer.Option(help="How strongly the condition pulls; 1 is as learned.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the sampler.")]
Seed = Annotated[int, typer.Option(help="Seed.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


@images.command()
@friendly_errors
def fit(
    data: Annotated[
        Path,
        typer.Argument(help="Folder of pictures (subfolders are labels), .npy, .npz, or MNIST's."),
    ],
    model: Model,
    labels: Annotated[Path | None, typer.Option(help="Labels: .npy or MNIST's format.")] = None,
    dims: Annotated[
        int | None, typer.Option(help="Dimensions of the grid: 1 for (N, C, L).")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="Captions: a text file with a line for every image.")
    ] = None,
    given: Given = None,
    given_noise: Annotated[
        float, typer.Option(help="Largest noise on given images, for cascades.")
    ] = 0.0,
    network: Annotated[str, typer.Option(help="unet or dit.")] = "unet",
    width: Annotated[int, typer.Option(help="Channels of the network at full resolution.")] = 32,
    budget: Annotated[
        str | None, typer.Option(help="Training time at most, such as 4min.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from a checkpoint.")] = False,
    quiet: Quiet = False,
) -> None:
    """Learn images, by label, caption or given image where there are any."""
    check_writable(model)
    from scidiffusion.images import ImageDiffusion, read_images
    from scidiffusion.images.reading import read_captions

    X, y = read_images(data, labels)
    told = None if captions is None else read_captions(captions)
    shown = None if given is None else read_images(given)[0]
    estimator = ImageDiffusion(
        dims=dims,
        network=network,
        given_noise=given_noise,
        width=width,
        budget=budget,
        random_state=seed,
        device=device,
        progress=not quiet,
    )
    with resumable(model) as checkpoint:
        estimator.fit(X, y, captions=told, given=shown, checkpoint_dir=checkpoint, resume=resume)
        estimator.save(model)
    typer.echo(f"learned from {len(X)} images; model written to {model}")


@images.command()
@friendly_errors
def sample(
    model: Model,
    output: Output,
    n: Annotated[
        int | None, typer.Option("-n", help="Number of images: 16, or one a given image.")
    ] = None,
    condition: Condition = None,
    caption: Caption = None,
    given: Given = None,
    guidance_scale: Scale = 1.0,
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Draw new images."""
    from scidiffusion.images import read_images
    from scidiffusion.images.writing import check_output, write_images

    check_output(output)
    shown = None if given is None else read_images(given)[0]
    count = n if n is not None else 16 if shown is None else len(shown)
    estimator = _load(model, device, quiet)
    drawn = estimator.sample(
        count,
        conditions=_parsed(estimator, condition),
        captions=caption,
        given=shown,
        guidance_scale=guidance_scale,
        steps=steps,
        random_state=seed,
    )
    write_images(output, drawn, value_range=(estimator.codec_.low, estimator.codec_.high))
    typer.echo(f"{len(drawn)} images written to {output}")


@images.command()
@friendly_errors
def inpaint(
    data: Annotated[Path, typer.Argument(help="Images, as for fit; unknown values may be NaN.")],
    model: Model,
    output: Output,
    mask: Annotated[
        Path | None,
        typer.Option(help=".npy of bools, true where known; without, what is not NaN is known."),
    ] = None,
    method: Annotated[str, typer.Option(help="repaint or reconstruction.")] = "repaint",
    condition: Condition = None,
    guidance_scale: Scale = 1.0,
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Draw the unknown parts of images, given the known ones."""
    from scidiffusion.images import read_images
    from scidiffusion.images.inpainting import read_mask
    from scidiffusion.images.writing import check_output, write_images

    check_output(output)
    X, _ = read_images(data)
    known = read_mask(mask, X)
    estimator = _load(model, device, quiet)
    drawn = estimator.inpaint(
        X,
        known,
        conditions=_parsed(estimator, condition),
        guidance_scale=guidance_scale,
        method=method,
        steps=steps,
        random_state=seed,
    )
    write_images(output, drawn, value_range=(estimator.codec_.low, estimator.codec_.high))
    typer.echo(f"{len(drawn)} images written to {output}")


def _load(model: Path, device: str, quiet: bool) -> ImageDiffusion:
    from scidiffusion.images import ImageDiffusion

    estimator = ImageDiffusion.load(model, device=device)
    estimator.progress = not quiet
    return estimator


def _parsed(estimator: ImageDiffusion, condition: str | None) -> Any:
    """The condition of the command line as the model has it."""
    if condition is None:
        return None
    if estimator.conditions_.labels is None:
        raise ConditionError("this model was fitted without labels; leave --condition out")
    return estimator.conditions_.labels.parse(condition)
