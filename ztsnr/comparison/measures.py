"""The measures by which options can be ranked."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    metric: str
    """The metric's name in the record; for a measure at several guidance scales, the prefix of the names."""
    title: str
    sign: int = 1
    """1 if lower is better, -1 if higher is."""
    group: str = "quality"
    """The config group whose settings must be the same for runs to be ranked together."""

    @property
    def has_guidance(self) -> bool:
        """Whether it is measured at several guidance scales."""
        return self.metric.endswith("_")

    def at_guidance(self, scale: float) -> str:
        return f"{self.metric}{scale:05.2f}"


MEASURES = {
    "score": Measure("error/score", "held-out error of v", group="validation"),
    "frechet": Measure("quality_frechet/guidance_", "Fréchet distance"),
    "precision": Measure("quality_precision/guidance_", "precision", -1),
    "recall": Measure("quality_recall/guidance_", "recall", -1),
    "accuracy": Measure("quality_accuracy/guidance_", "class accuracy", -1),
}
