"""Samples prompts on the training schedule, and measures whether the network has learned zero terminal SNR."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image
from torch import Tensor, nn

from ztsnr.core.checks import Bounds, Count, Fraction, NonEmpty, NonNegative, NonNegativeInt, Part, key
from ztsnr.core.errors import ConfigError
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import normal
from ztsnr.core.sampling import Guidance, Sampler, guided_denoise
from ztsnr.data import Data
from ztsnr.data.scale import to_latents
from ztsnr.devices.processes import device_of
from ztsnr.evaluation.samples import tile_images
from ztsnr.models.pretrained import load_vae
from ztsnr.models.text import TextEncoders, load_text_encoders

HEALTH_PROMPTS = {"black": "solid black background", "white": "solid white background"}
HEALTH_DRAWS = 4
"""Noise samples for the health metric."""

Embeddings = dict[str, Tensor]
"""Text encoders' output for one prompt: text (1, L, width) and, for SDXL, pooled (1, width)."""


@dataclass(frozen=True, kw_only=True)
class Prompts(Part):
    """A grid with a row for each prompt; the images of a column share their noise.

    `prompts` is a list; null reads `file`, one prompt a line. `pretrained` is the model whose text encoders and VAE are
    used. `size` is height and width in pixels.
    """

    sampler: Sampler
    prompts: list[str] | None
    file: str | None
    negative: str
    pretrained: str
    size: list[Annotated[int, Bounds(at_least=8)]]
    steps: Count
    guidances: Annotated[list[NonNegative], NonEmpty()]
    rescale: Fraction
    columns: Count
    seed: NonNegativeInt

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.size) != 2 or any(side % 8 for side in self.size):
            raise ConfigError(f"{key('size')} must be a height and a width, multiples of 8, got {list(self.size)}")
        if (self.prompts is None) == (self.file is None):
            raise ConfigError(f"set either {key('file')}=FILE, with one prompt a line, or {key('prompts')}=[...]")
        if not self.texts:
            source = key("prompts") if self.file is None else f"{key('file')}={self.file}"
            raise ConfigError(f"{source} has no prompt. Write one a line, or {key('prompts')}=['a red house']")

    @cached_property
    def texts(self) -> list[str]:
        """The prompts, in order."""
        if self.file is None:
            return list(self.prompts or [])
        try:
            lines = Path(self.file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{key('file')}={self.file} cannot be read as text, one prompt a line: {error}"
            ) from error
        return [line.strip() for line in lines if line.strip()]

    def __call__(self, objective: Objective, network: nn.Module, data: Data) -> dict[float, Image.Image]:
        """Guidance scale -> grid. Needs no_grad and eval mode."""
        latents = data.facts["latents"]
        images = {scale: self.sample(objective, network, latents, scale) for scale in self.guidances}
        return {scale: tile_images(batch, self.columns) for scale, batch in images.items()}

    def sample(
        self, objective: Objective, network: nn.Module, latents: Mapping[str, list[float]], scale: float
    ) -> Tensor:
        """(prompts * columns, 3, H, W) in [-1, 1], prompt by prompt. `latents`: a Scale of data/scale.py."""
        sigmas = objective.schedule.grid.sigmas(self.steps)
        guidance = Guidance(scale=scale, rescale=self.rescale)
        embeddings = self.embeddings(network)
        negative = self.conditions(embeddings[self.negative], network, self.columns)
        rows = []
        for prompt in self.texts:
            positive = self.conditions(embeddings[prompt], network, self.columns)
            denoise = guided_denoise(objective, network, positive, negative, guidance)
            x0 = self.sampler(denoise, self._noise(network, self.columns), sigmas)
            rows.append(self.decode(x0, latents))
        return torch.cat(rows)

    def metrics(self, objective: Objective, network: nn.Module, data: Data) -> dict[str, float]:
        """Measures the estimate that the first sampling step makes from pure noise, without guidance.

        At zero terminal SNR the noise contains no information about the image, so the estimate should not depend on it:
        noise_variance is then 0. It is 1 for a network that returns the noise. black and white are the brightness, in
        [0, 1], of the mean estimate for a background of that colour.
        """
        sigma_max = objective.schedule.grid.sigmas(self.steps)[0]
        noise = self._noise(network, HEALTH_DRAWS)
        embeddings = self.embeddings(network)
        variances = []
        brightness = {}
        for colour, prompt in HEALTH_PROMPTS.items():
            cond = self.conditions(embeddings[prompt], network, 1)
            estimates = torch.cat([objective.denoise(network, z, sigma_max, cond) for z in noise.split(1)]).float()
            variances.append(estimates.var(0).mean().item())
            image = self.decode(estimates.mean(0, keepdim=True), data.facts["latents"])
            brightness[f"health/{colour}"] = (image.mean().item() + 1) / 2
        return {"health/noise_variance": sum(variances) / len(variances), **brightness}

    def decode(self, x0: Tensor, latents: Mapping[str, list[float]]) -> Tensor:
        """x0 (B, 4, h, w) -> images (B, 3, 8 h, 8 w) in [-1, 1], in host memory. Decodes one at a time, in float32."""
        vae: Any = self._vae.to(x0.device)
        images = []
        with torch.autocast(x0.device.type, enabled=False):
            for one in x0.split(1):
                decoded = vae.decode(to_latents(one.float(), latents), return_dict=False)[0]
                images.append(decoded.clamp(-1, 1).cpu())
        self._vae.to("cpu")
        return torch.cat(images)

    def embeddings(self, network: nn.Module) -> dict[str, Embeddings]:
        """Prompt -> embeddings, by the network's own text encoders if it trains them."""
        own = getattr(network, "text_encoders", None)
        return self._frozen_embeddings if own is None else self._encode(own)

    def conditions(self, embeddings: Embeddings, network: nn.Module, rows: int) -> dict[str, Tensor]:
        """The network's conditions for `rows` images of one prompt."""
        time_ids = torch.tensor([[*self.size, 0, 0, *self.size]], dtype=torch.float32)
        device = device_of(network)
        cond = {**embeddings, "time_ids": time_ids}
        return {name: value.expand(rows, *value.shape[1:]).to(device) for name, value in cond.items()}

    @cached_property
    def _frozen_embeddings(self) -> dict[str, Embeddings]:
        """The encoders are loaded and freed here."""
        return self._encode(load_text_encoders(self.pretrained))

    def _encode(self, encoders: TextEncoders) -> dict[str, Embeddings]:
        prompts = list(dict.fromkeys([*self.texts, self.negative, *HEALTH_PROMPTS.values()]))
        batch = encoders.encode(prompts)
        embeddings = {}
        for row, prompt in enumerate(prompts):
            embeddings[prompt] = {name: value[row : row + 1] for name, value in batch.items()}
        return embeddings

    @cached_property
    def _vae(self) -> nn.Module:
        return load_vae(self.pretrained)

    def _noise(self, network: nn.Module, rows: int) -> Tensor:
        height, width = self.size
        shape = (4, height // 8, width // 8)
        return normal(self.seed, "samples", 0, range(rows), shape).to(device_of(network))
