"""A stand-in for the few calls of ComfyUI that nodes/ make, of the shape of 0.3.64 and 0.8.0. Its maths is the core's.

scripts/comfyui_proof.py makes the same calls in the real one.
"""

import importlib.util
import sys
from copy import deepcopy
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

from ztsnr.core.noise import expand

NODES = Path(__file__).resolve().parent.parent / "nodes"


class EPS:
    def calculate_input(self, sigma, x):
        return x / expand((sigma.square() + self.sigma_data**2).sqrt(), x)


class V_PREDICTION(EPS):
    def calculate_denoised(self, sigma, output, x):
        square = sigma.square() + self.sigma_data**2
        skip, out = self.sigma_data**2 / square, sigma * self.sigma_data / square.sqrt()
        return expand(skip, x) * x - expand(out, x) * output


class X0(EPS):
    pass


class EDM(V_PREDICTION):
    pass


class CONST:
    pass


class ModelSamplingDiscrete(torch.nn.Module):
    sigma_data = 1.0

    def __init__(self, model_config=None):
        super().__init__()
        self.set_sigmas(torch.tensor([0.1, 14.6]))

    def set_sigmas(self, sigmas):
        self.register_buffer("sigmas", sigmas.float())
        self.register_buffer("log_sigmas", sigmas.log().float())

    def sigma(self, timestep):
        below, share = int(timestep), timestep - int(timestep)
        above = min(below + 1, len(self.sigmas) - 1)
        return ((1 - share) * self.log_sigmas[below] + share * self.log_sigmas[above]).exp()

    sigma_min = property(lambda self: self.sigmas[0])
    sigma_max = property(lambda self: self.sigmas[-1])


class LatentFormat:
    taesd_decoder_name = None


class SDXL(LatentFormat):
    scale_factor = 0.13025

    def __init__(self):
        self.latent_rgb_factors = [[0.3, 0.4, 0.4], [-0.2, 0.0, 0.1], [0.1, 0.1, 0.0], [-0.3, -0.2, -0.2]]
        self.latent_rgb_factors_bias = [0.1, 0.0, -0.1]
        self.taesd_decoder_name = "taesdxl_decoder"


class KSAMPLER:
    def __init__(self, sampler_function, extra_options=None, inpaint_options=None):
        self.sampler_function = sampler_function
        self.extra_options, self.inpaint_options = extra_options or {}, inpaint_options or {}


class Patcher:
    """ComfyUI's ModelPatcher: clones share the model and have patches and options of their own."""

    def __init__(self, **unet_config):
        unet = unet_config or {"context_dim": 2048, "model_channels": 320}
        config = SimpleNamespace(unet_config=unet, sampling_settings={}, latent_format=SDXL())
        self.model = SimpleNamespace(model_config=config, latent_format=config.latent_format)
        self.model.model_sampling = ModelSamplingDiscrete()
        self.object_patches, self.model_options = {}, {"transformer_options": {}}

    def clone(self):
        other = Patcher()
        other.model, other.object_patches = self.model, self.object_patches.copy()
        other.model_options = deepcopy(self.model_options)
        return other

    def add_object_patch(self, name, value):
        self.object_patches[name] = value

    def get_model_object(self, name):
        return self.object_patches.get(name, getattr(self.model, name))

    def set_model_sampler_post_cfg_function(self, function):
        functions = self.model_options.get("sampler_post_cfg_function", [])
        self.model_options["sampler_post_cfg_function"] = [*functions, function]


def safetensors_header(path):
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(length) if length <= 100 * 2**20 else None


def modules(models: Path) -> dict[str, ModuleType]:
    """What `import comfy...` and `import folder_paths` find, by name; each kind of model has its folder in `models`."""
    contents = {
        "comfy": {"__path__": []},
        "comfy.model_sampling": {
            kind.__name__: kind for kind in (EPS, V_PREDICTION, X0, EDM, CONST, ModelSamplingDiscrete)
        },
        "comfy.latent_formats": {"LatentFormat": LatentFormat},
        "comfy.samplers": {"KSAMPLER": KSAMPLER},
        "comfy.utils": {"safetensors_header": safetensors_header},
        "folder_paths": {
            "get_filename_list": lambda kind: sorted(path.name for path in (models / kind).glob("*")),
            "get_full_path_or_raise": lambda kind, name: str(models / kind / name),
        },
    }
    modules_by_name = {}
    for name, attributes in contents.items():
        modules_by_name[name] = ModuleType(name)
        vars(modules_by_name[name]).update(attributes)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules_by_name[parent], child, modules_by_name[name])
    return modules_by_name


def load_nodes(folder: Path = NODES, name: str = "custom_nodes_ztsnr") -> ModuleType:
    """The package as ComfyUI loads it: from its folder, under a name of the loader's choice."""
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
        del sys.modules[loaded]
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
