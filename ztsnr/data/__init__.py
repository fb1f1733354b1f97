"""Data sets: pictures as x0 in [-1, 1], and what is known of them as conditions."""

from ztsnr.data.labelled import Digits, LabelledImages, Mnist, Split

__all__ = ["Digits", "LabelledImages", "Mnist", "Split"]
