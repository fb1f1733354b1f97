"""The plan as text."""

import numpy as np

from ztsnr.caching.buckets import TOO_LONG, TOO_SMALL, USED, Plan
from ztsnr.caching.catalogue import Catalogue, CatalogueEntry, ImageFile
from ztsnr.caching.report import MAX_LINES, first_lines, left_out_table, plan_report, reasons
from ztsnr.data.order import Order


def entry(name, size, captions=("a",), mask_digest=b""):
    return CatalogueEntry(ImageFile(name, name, (), captions), name.encode(), size, mask_digest)


CATALOGUE = Catalogue(
    images=[
        entry("a.png", (64, 64)),
        entry("b.png", (32, 32), captions=()),
        entry("c.png", (64, 128), mask_digest=b"mask"),
        entry("long.png", (10, 100)),
        entry("small.png", (8, 8)),
    ],
    skipped={"bad.png": "it is empty"},
)
PLAN = Plan(
    sizes=np.array([[64, 64], [64, 128]]),
    bucket=np.array([0, 0, 1, -1, -1]),
    fate=np.array([USED, USED, USED, TOO_LONG, TOO_SMALL]),
    upscaled=np.array([1.0, 2.0, 1.0, 6.4, 8.0]),
    cropped=np.array([0.0, 0.25, 0.5, 0.0, 0.0]),
    merged=np.array([False, False, True, False, False]),
)
COUNTS = np.array([[3, 1], [5, 0]])


def test_plan_report_has_a_row_for_each_bucket():
    order = Order(counts=(3, 5), batches=(2, 4), leftovers="repeat", seed=0)
    lines = plan_report(CATALOGUE, PLAN, COUNTS, order).splitlines()
    assert lines[0] == "6 files, 3 images used"
    table = [line.split() for line in lines[2:5]]
    assert table == [
        ["bucket", "files", "samples", "held", "batch", "batches", "shown", "larger", "cropped", "merged"],
        ["64x64", "2", "3", "1", "2", "2", "1.33", "1", "12.5%", "0"],
        ["64x128", "1", "5", "0", "4", "2", "1.6", "0", "50.0%", "1"],
    ]
    assert "without a caption: 1, such as b.png" in lines
    assert "with a mask: 1" in lines


def test_plan_report_counts_excluded_images_by_reason():
    order = Order(counts=(3, 5), batches=(2, 4), leftovers="repeat", seed=0)
    report = plan_report(CATALOGUE, PLAN, COUNTS, order)
    assert "left out: 3\n" in report
    for kind in ("it is empty", "too long", "too small"):
        assert f"     1  {kind}\n" in report


def test_reasons_for_exclusion_include_the_measurement():
    assert reasons(CATALOGUE, PLAN) == {
        "bad.png": "it is empty",
        "long.png": "too long: 10 times its other side",
        "small.png": "too small: shown 8 times its size",
    }
    assert left_out_table(CATALOGUE, PLAN).splitlines()[0] == "bad.png\tit is empty"


def test_first_lines_end_with_the_number_of_omitted_lines():
    left = {f"{number}.png": "why" for number in range(MAX_LINES + 3)}
    lines = first_lines(left).splitlines()
    assert len(lines) == MAX_LINES + 1
    assert lines[-1] == "  and 3 more"
