"""The plan as text: the buckets, their images, and the excluded files with their reasons."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ztsnr.caching.buckets import TOO_LONG, TOO_SMALL, USED, Plan
from ztsnr.caching.catalogue import Catalogue
from ztsnr.data.order import Order

MAX_LINES = 40
"""Excluded files in the report; the list beside the index has all of them."""
REASONS = {TOO_SMALL: "too small: shown {:,.4g} times its size", TOO_LONG: "too long: {:,.4g} times its other side"}
BUCKET_COLUMNS = ("bucket", "files", "samples", "held", "batch", "batches", "shown", "larger", "cropped", "merged")
LEGEND = """
bucket: height x width. samples: for training, with repeats.
held: held out. batches: per epoch. shown: how often an epoch shows a
sample (leftovers: {}). larger: images that are enlarged.
cropped: mean share cut off. merged: images whose own bucket was
smaller than a batch.
"""


def plan_report(catalogue: Catalogue, plan: Plan, counts: np.ndarray, order: Order) -> str:
    """The report, as wide as a page of MLflow. counts (K, 2): training and held-out samples by bucket."""
    is_used = plan.fate == USED
    lines = [f"{len(catalogue.images) + len(catalogue.skipped)} files, {int(is_used.sum())} images used", ""]

    lines += _table([BUCKET_COLUMNS, *_bucket_rows(plan, counts, order)])
    lines += LEGEND.format(order.leftovers).splitlines()

    left = reasons(catalogue, plan)
    kinds = Counter(reason.split(":")[0] for reason in left.values())
    lines += ["", f"left out: {len(left)}"]
    lines += [f"{count:6}  {kind}" for kind, count in kinds.most_common(8)]
    if left:
        lines += [first_lines(left), ""]

    bare = [image.file.name for image in catalogue.images if not image.file.captions]
    lines.append(f"without a caption: {len(bare)}" + (f", such as {bare[0]}" if bare else ""))
    masked = sum(bool(image.mask_digest) for image in catalogue.images)
    if masked:
        lines.append(f"with a mask: {masked}")
    return "\n".join(lines) + "\n"


def reasons(catalogue: Catalogue, plan: Plan) -> dict[str, str]:
    """Name of an excluded file -> reason."""
    left = dict(catalogue.skipped)
    for i in np.flatnonzero(plan.fate != USED):
        image = catalogue.images[i]
        measure = plan.upscaled[i] if plan.fate[i] == TOO_SMALL else max(image.size) / min(image.size)
        left[image.file.name] = REASONS[int(plan.fate[i])].format(measure)
    return left


def first_lines(left: Mapping[str, str]) -> str:
    """The first MAX_LINES files, one a line, and the number of the others."""
    lines = [f"  {name}: {reason}" for name, reason in list(left.items())[:MAX_LINES]]
    if len(left) > MAX_LINES:
        lines.append(f"  and {len(left) - MAX_LINES} more")
    return "\n".join(lines)


def left_out_table(catalogue: Catalogue, plan: Plan) -> str:
    """A line a file: name, tab, why."""
    return "".join(f"{name}\t{reason}\n" for name, reason in reasons(catalogue, plan).items())


def moments_report(means: list[float], stds: list[float], pooled_mean: float, pooled_std: float) -> str:
    """The statistics of latents as the VAE encoded them, by channel and of all."""
    rows = [("channel", "mean", "std")]
    for channel, (mean, std) in enumerate(zip(means, stds, strict=True)):
        rows.append((str(channel), f"{mean:.4f}", f"{std:.4f}"))
    rows.append(("all", f"{pooled_mean:.4f}", f"{pooled_std:.4f}"))
    return "\n".join(["", "latents", *_table(rows, "  ")]) + "\n"


def _bucket_rows(plan: Plan, counts: np.ndarray, order: Order) -> list[tuple[str, ...]]:
    mean_steps = order.mean_steps()
    repeats = order.shown()
    rows = []
    for k, (height, width) in enumerate(plan.sizes):
        is_inside = plan.bucket == k
        samples, held_out = counts[k]
        cells = (
            f"{height}x{width}",
            int(is_inside.sum()),
            samples,
            held_out,
            order.batches[k],
            f"{mean_steps[k]:.3g}",
            f"{repeats[k]:.3g}",
            int((plan.upscaled[is_inside] > 1).sum()),
            f"{plan.cropped[is_inside].mean():.1%}",
            int(plan.merged[is_inside].sum()),
        )
        rows.append(tuple(map(str, cells)))
    return rows


def _table(rows: Sequence[tuple[str, ...]], gap: str = " ") -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [gap.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
