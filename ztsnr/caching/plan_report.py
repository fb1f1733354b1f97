"""The plan in words: which buckets there are, what becomes of each picture, and what is skipped and why."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from ztsnr.caching.buckets import TOO_LONG, TOO_SMALL, USED, Plan
from ztsnr.caching.catalogue import Catalogue
from ztsnr.caching.statistics import Moments
from ztsnr.data.order import Order

NAMED = 40
"""So many files are named in the report; all of them in the list beside the index."""
REASONS = {TOO_SMALL: "too small: shown {:,.4g} times its size", TOO_LONG: "too long: {:,.4g} times its other side"}
HEADS = ("bucket", "files", "samples", "held", "batch", "batches", "shown", "larger", "cropped", "merged")
LEGEND = """
bucket: height x width. samples: to train on, with repeats; held: out.
batches: of an epoch, in which a sample is shown so many times
(leftovers: {}). larger: shown larger than they are. cropped:
mean share cut off. merged: those whose own bucket was smaller than
a batch.
"""


def plan_report(found: Catalogue, plan: Plan, counts: np.ndarray, order: Order) -> str:
    """counts (K, 2): samples to train on and held out. As wide as a page of MLflow shows."""
    used = plan.fate == USED
    lines = [f"{len(found.pictures) + len(found.skipped)} files, {int(used.sum())} pictures used", ""]
    lines += _table([HEADS, *(_bucket(k, plan, counts, order) for k in range(len(plan.sizes)))])
    lines += LEGEND.format(order.leftovers).splitlines()
    left = reasons(found, plan)
    kinds = Counter(reason.split(":")[0] for reason in left.values())
    lines += ["", f"left out: {len(left)}", *(f"{count:6}  {kind}" for kind, count in kinds.most_common(8))]
    lines += [some(left), ""] if left else []
    bare = [picture.found.name for picture in found.pictures if not picture.found.captions]
    lines += [f"without a caption: {len(bare)}" + (f", such as {bare[0]}" if bare else "")]
    masked = sum(bool(picture.mask) for picture in found.pictures)
    lines += [f"with a mask: {masked}"] if masked else []
    return "\n".join(lines) + "\n"


def reasons(found: Catalogue, plan: Plan) -> dict[str, str]:
    """File name -> why it is not trained on."""
    left = dict(found.skipped)
    for i in np.flatnonzero(plan.fate != USED):
        picture = found.pictures[i]
        measure = plan.upscaled[i] if plan.fate[i] == TOO_SMALL else max(picture.size) / min(picture.size)
        left[picture.found.name] = REASONS[int(plan.fate[i])].format(measure)
    return left


def some(left: Mapping[str, str]) -> str:
    """The first of them, a line each."""
    lines = [f"  {name}: {reason}" for name, reason in list(left.items())[:NAMED]]
    return "\n".join(lines + ([f"  and {len(left) - NAMED} more"] if len(left) > NAMED else []))


def left_out(found: Catalogue, plan: Plan) -> str:
    """A line a file: name, tab, why."""
    return "".join(f"{name}\t{reason}\n" for name, reason in reasons(found, plan).items())


def _bucket(k: int, plan: Plan, counts: np.ndarray, order: Order) -> tuple[str, ...]:
    inside = plan.bucket == k
    samples, held_out = counts[k]
    batches, size = order.mean_steps()[k], order.batches[k]
    shown = order.shown()[k]
    upscaled, cropped = int((plan.upscaled[inside] > 1).sum()), plan.cropped[inside].mean()
    size_name = "{}x{}".format(*plan.sizes[k])
    told = size_name, int(inside.sum()), samples, held_out, size, f"{batches:.3g}", f"{shown:.3g}", upscaled
    return tuple(map(str, (*told, f"{cropped:.1%}", int(plan.merged[inside].sum()))))


def tell_moments(moments: Moments) -> str:
    """The latents' statistics, as the VAE says them."""
    pooled = moments.pooled
    rows = [(str(i), f"{m:.4f}", f"{s:.4f}") for i, (m, s) in enumerate(zip(moments.mean, moments.std, strict=True))]
    rows = [("channel", "mean", "std"), *rows, ("all", f"{pooled.mean.item():.4f}", f"{pooled.std.item():.4f}")]
    return "\n".join(["", "latents", *_table(rows, "  ")]) + "\n"


def _table(rows: list[tuple[str, ...]], gap: str = " ") -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [gap.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
