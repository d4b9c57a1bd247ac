"""Exact oracles and assertion helpers: what this library is proven with, for your tests too."""
