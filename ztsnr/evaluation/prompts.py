"""Pictures of prompts, drawn on the schedule that is trained, and how far it is a zero-terminal one."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.core.objective import Objective
from ztsnr.core.randomness import normal
from ztsnr.core.sampling import Guidance, Sampler, guided_denoise
from ztsnr.data import Data
from ztsnr.evaluation.samples import to_picture
from ztsnr.models.pretrained import load_vae
from ztsnr.models.text import TextEncoders

SOLID = ("solid black background", "solid white background")
DRAWS = 4
"""Of noise, for the health metric."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """A row a prompt; a column a seed, whose noise all prompts share.

    `prompts` is a list of them; null takes those of `file`, which has one a line. `pretrained` is where the text
    encoders and the VAE are. `size` is height and width in pixels.
    """

    sampler: Sampler
    prompts: list[str] | None
    file: str | None
    negative: str
    pretrained: str
    size: tuple[int, int]
    steps: int
    guidances: tuple[float, ...]
    rescale: float
    columns: int
    seed: int

    def __post_init__(self):
        checks.instance("samples.sampler", self.sampler, Sampler)
        checks.numbers("samples.guidances", self.guidances, at_least=0)
        for scale in self.guidances:
            Guidance(scale=scale, rescale=self.rescale)
        checks.numbers("samples.size", self.size, at_least=8)
        if len(self.size) != 2 or any(side % 8 for side in self.size):
            raise ConfigError(f"samples.size must be a height and a width, multiples of 8, got {list(self.size)}")
        for name, least in (("steps", 1), ("columns", 1), ("seed", 0)):
            checks.integer(f"samples.{name}", getattr(self, name), at_least=least)
        if (self.prompts is None) == (self.file is None):
            raise ConfigError("samples.file, which has one prompt a line, or samples.prompts must be given, not both")
        if not isinstance(self.words, list) or not all(isinstance(prompt, str) for prompt in self.words):
            raise ConfigError(f"samples.prompts must be a list such as ['a red house'], got {self.prompts!r}")
        if not self.words:
            where = "samples.prompts" if self.file is None else f"samples.file={self.file}"
            raise ConfigError(f"{where} holds no prompt. Write one a line, or samples.prompts=['a red house']")

    @cached_property
    def words(self) -> list[str]:
        if self.file is None:
            return self.prompts
        try:
            lines = Path(self.file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"samples.file={self.file} cannot be read as text, one prompt a line: {error}") from error
        return [line.strip() for line in lines if line.strip()]

    def __call__(self, objective: Objective, network: nn.Module, data: Data) -> dict[float, Image.Image]:
        """Guidance scale -> picture. Needs no_grad and eval mode."""
        latents = data.facts["latents"]
        drawn = {scale: self.draw(objective, network, latents, scale) for scale in self.guidances}
        return {scale: to_picture(pictures, self.columns) for scale, pictures in drawn.items()}

    def draw(self, objective: Objective, network: nn.Module, latents: dict, scale: float) -> Tensor:
        """(prompts * columns, 3, H, W) in [-1, 1], prompt by prompt. `latents`: mean and std of what the VAE reads, by
        channel: x0 * std + mean."""
        sigmas, guidance = objective.schedule.grid.sigmas(self.steps), Guidance(scale=scale, rescale=self.rescale)
        rows, said = [], self._said(network)
        for prompt in self.words:
            cond, negative = (self._cond(said[words], network, self.columns) for words in (prompt, self.negative))
            denoise = guided_denoise(objective, network, cond, negative, guidance)
            rows.append(self.decode(self.sampler(denoise, self._noise(network, self.columns), sigmas), latents))
        return torch.cat(rows)

    def metrics(self, objective: Objective, network: nn.Module, data: Data) -> dict[str, float]:
        """What the first step of sampling makes of pure noise, without guidance.

        At zero terminal SNR the noise says nothing of the picture, so that the estimate must not vary with it:
        noise_variance is 0 then, and 1 of a network that answers with the noise. black and white are the brightness,
        in [0, 1], of the mean estimate for a background of that colour.
        """
        start, told, variances = objective.schedule.grid.sigmas(self.steps)[0], {}, []
        noise, said = self._noise(network, DRAWS), self._said(network)
        for prompt in SOLID:
            cond = self._cond(said[prompt], network, 1)
            estimates = torch.cat([objective.denoise(network, z, start, cond) for z in noise.split(1)]).float()
            variances.append(estimates.var(0).mean().item())
            picture = self.decode(estimates.mean(0, keepdim=True), data.facts["latents"])
            told[f"health/{prompt.split()[1]}"] = (picture.mean().item() + 1) / 2
        return {"health/noise_variance": sum(variances) / len(variances), **told}

    def decode(self, x0: Tensor, latents: dict) -> Tensor:
        """x0 (B, 4, h, w) -> pictures (B, 3, 8 h, 8 w) in [-1, 1], in host memory; one by one, in float32."""
        vae = self._vae.to(x0.device)
        mean, std = (torch.tensor(latents[name], device=x0.device)[:, None, None] for name in ("mean", "std"))
        with torch.autocast(x0.device.type, enabled=False):
            pictures = [vae.decode(one.float() * std + mean).sample.clamp(-1, 1).cpu() for one in x0.split(1)]
        self._vae.to("cpu")
        return torch.cat(pictures)

    @cached_property
    def _vae(self) -> nn.Module:
        return load_vae(self.pretrained)

    def _said(self, network: nn.Module) -> dict[str, dict[str, Tensor]]:
        """What the text encoders say of each prompt, those of the network where it trains them."""
        own = getattr(network, "text_encoders", None)
        return self._said_at_first if own is None else self._ask(own)

    @cached_property
    def _said_at_first(self) -> dict[str, dict[str, Tensor]]:
        """By encoders that leave memory then."""
        return self._ask(TextEncoders(self.pretrained))

    def _ask(self, encoders: TextEncoders) -> dict[str, dict[str, Tensor]]:
        words = list(dict.fromkeys([*self.words, self.negative, *SOLID]))
        told = encoders.encode(words)
        return {word: {name: value[i : i + 1] for name, value in told.items()} for i, word in enumerate(words)}

    def _cond(self, said: dict[str, Tensor], network: nn.Module, rows: int) -> dict[str, Tensor]:
        ids = torch.tensor([[*self.size, 0, 0, *self.size]], dtype=torch.float32)
        told = {**said, "time_ids": ids}
        return {name: value.expand(rows, *value.shape[1:]).to(_device(network)) for name, value in told.items()}

    def _noise(self, network: nn.Module, rows: int) -> Tensor:
        shape = (4, *(side // 8 for side in self.size))
        return normal(self.seed, "samples", 0, range(rows), shape).to(_device(network))


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
