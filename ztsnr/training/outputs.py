"""Writes the results of a finished run to its folder and to its record."""

from pathlib import Path

from omegaconf import OmegaConf

from ztsnr.analysis.plots import objective_figure, validation_figure
from ztsnr.analysis.summary import Summary
from ztsnr.checkpoints.weights import save_checkpoint
from ztsnr.config.identity import without_paths
from ztsnr.config.job import task_overrides
from ztsnr.tracking.tracker import TrackedRun
from ztsnr.training.parts import TrainingParts
from ztsnr.training.trainer import TrainingResult


def write_outputs(
    result: TrainingResult, parts: TrainingParts, config: dict, *, title: str, folder: Path, record: TrackedRun
) -> None:
    """config: the run's result config."""
    published = without_paths(config)
    networks = dict(result.networks)
    if result.learned:
        networks["objective"] = result.learned
    save_checkpoint(
        folder / "final.safetensors", networks, published, result.step, score=result.score, facts=parts.data.facts
    )
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(published)))
    images = write_images(result, parts, title, folder)

    for name in (*images, "config.yaml", "final.safetensors"):
        record.log_file(folder / name)
    command = " ".join(["python -m ztsnr.train", *task_overrides()])
    record.describe(f"**score {result.score:.4f}** after {result.step} steps of `{command}`", images)


def write_images(result: TrainingResult, parts: TrainingParts, title: str, folder: Path) -> list[str]:
    """Saves samples, the objective and its errors as images; returns their names, the most interesting first."""
    summary = Summary(objective=parts.objective, steps=parts.samples.steps)
    objective_figure({title: summary}).savefig(folder / "objective.png", dpi=90)
    figure = validation_figure(result.errors, f"{title}: score {result.score:.4f}")
    figure.savefig(folder / "validation.png", dpi=90)

    samples = []
    for guidance, image in result.images.items():
        name = f"samples_guidance_{guidance:g}.png"
        image.save(folder / name)
        samples.append(name)
    return [*samples, "validation.png", "objective.png"]
