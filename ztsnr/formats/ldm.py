"""Translates tensor names between diffusers and Stable Diffusion's original code (ldm).

ComfyUI, A1111 and Forge read the original names. `to_ldm` and `from_ldm` are inverses. Some versions of transformers
prefix a text encoder's names with `text_model.`; the names here do not have it.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ztsnr.core.errors import CheckpointError

StateDict = dict[str, Tensor]

PREFIXES = {
    "sdxl": {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.text_model.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sd15": {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "cond_stage_model.transformer.text_model.",
    },
}
"""Family -> part -> prefix of its tensors' names in a single file."""

UNUSED = {"embeddings.position_ids", "logit_scale"}
"""Tensors of original files that no part needs."""

Rules = list[tuple[str, str]]
UNET: Rules = [
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^add_embedding\.linear_1\.", "label_emb.0.0."),
    (r"^add_embedding\.linear_2\.", "label_emb.0.2."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
]
RESNET: Rules = [
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
]
VAE_RULES: Rules = [
    (r"\.resnets\.", ".block."),
    (r"\.mid_block\.block\.0\.", ".mid.block_1."),
    (r"\.mid_block\.block\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.attn_1\.group_norm\.", ".attn_1.norm."),
    (r"\.attn_1\.to_([qkv])\.", r".attn_1.\1."),
    (r"\.attn_1\.to_out\.0\.", ".attn_1.proj_out."),
    (r"^encoder\.down_blocks\.", "encoder.down."),
    (r"\.downsamplers\.0\.", ".downsample."),
    (r"\.upsamplers\.0\.", ".upsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
]
OPEN_CLIP: Rules = [
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^text_projection\.weight$", "text_projection"),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.fc1\.", ".c_fc."),
    (r"\.fc2\.", ".c_proj."),
    (r"\.self_attn\.", ".attn."),
]
QKV = re.compile(r"(.*\.attn\.)([qkv])_proj\.(weight|bias)")


def to_ldm(part: str, state: Mapping[str, Tensor]) -> StateDict:
    """A part's tensors under their original names, without the part's prefix. Meta tensors work too."""
    names = ldm_names(part, state)
    if part == "vae":
        return {names[key]: value[..., None, None] if _in_attention(key) else value for key, value in state.items()}
    if part != "text_encoder_2":
        return {names[key]: value for key, value in state.items()}

    # OpenCLIP joins q, k and v of an attention into one tensor, and transposes the projection.
    ldm: StateDict = {}
    separate: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name = names[key]
        if match := QKV.fullmatch(name):
            separate.setdefault(f"{match[1]}in_proj_{match[3]}", {})[match[2]] = value
        else:
            ldm[name] = value.T.contiguous() if name == "text_projection" else value
    for name, qkv in separate.items():
        ldm[name] = torch.cat([qkv["q"], qkv["k"], qkv["v"]])
    return ldm


def from_ldm(part: str, ldm: Mapping[str, Tensor], like: Mapping[str, Tensor], source: str) -> StateDict:
    """Converts a part's original tensors to the names and shapes of `like`. Raises CheckpointError."""
    expected = to_ldm(part, {key: value.to("meta") for key, value in like.items()})
    _refuse(source, f"{part} lacks {{}} tensors", sorted(expected.keys() - ldm.keys()))
    _refuse(source, f"{part} has {{}} unexpected tensors", sorted(ldm.keys() - expected.keys() - UNUSED))
    misfits = [
        f"{key} of shape {tuple(ldm[key].shape)}" for key in expected if ldm[key].numel() != expected[key].numel()
    ]
    _refuse(source, f"{part} has {{}} tensors of a wrong size", misfits)

    state = {}
    for key, name in ldm_names(part, like).items():
        if part == "text_encoder_2" and (match := QKV.fullmatch(name)):
            state[key] = ldm[f"{match[1]}in_proj_{match[3]}"].chunk(3)["qkv".index(match[2])]
        else:
            state[key] = ldm[name].T.contiguous() if name == "text_projection" else ldm[name].reshape(like[key].shape)
    return state


def ldm_names(part: str, names: Iterable[str]) -> dict[str, str]:
    """diffusers' name -> original name; q, k and v of the second text encoder are still separate."""
    names = list(names)
    if part == "text_encoder":
        return {name: name for name in names}
    if part == "text_encoder_2":
        return {name: _apply(OPEN_CLIP, name) for name in names}
    return _vae_names(names) if part == "vae" else _unet_names(names)


def _unet_names(names: list[str]) -> dict[str, str]:
    # diffusers numbers blocks, and layers in each block; the original numbers all layers of a side in one sequence.
    # A block of diffusers takes `layers` numbers there: its resnets, and one for the down- or upsampler.
    layers = 2 + max(_numbers(r"^down_blocks\.0\.resnets\.(\d+)", names))
    with_attention = set(_numbers(r"^up_blocks\.(\d+)\.attentions", names))

    def block(match: re.Match) -> str:
        side, number_text, kind, layer = match.groups()
        number = int(number_text)
        if kind == "downsamplers":
            return f"input_blocks.{(number + 1) * layers}.0.op"
        if kind == "upsamplers":
            return f"output_blocks.{(number + 1) * layers - 1}.{1 + (number in with_attention)}.conv"
        index = number * layers + int(layer)
        submodule = int(kind == "attentions")
        if side == "down":
            return f"input_blocks.{index + 1}.{submodule}"  # after conv_in
        return f"output_blocks.{index}.{submodule}"

    def rename(name: str) -> str:
        renamed = re.sub(r"^(down|up)_blocks\.(\d+)\.(\w+samplers)\.(\d+)\.conv", block, name)
        renamed = re.sub(r"^(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)", block, _apply(UNET, renamed))
        return _apply(RESNET, renamed) if ".resnets." in name else renamed

    return {name: rename(name) for name in names}


def _vae_names(names: list[str]) -> dict[str, str]:
    last = max(_numbers(r"^decoder\.up_blocks\.(\d+)", names))

    def rename(name: str) -> str:
        name = re.sub(r"^decoder\.up_blocks\.(\d+)", lambda match: f"decoder.up.{last - int(match[1])}", name)
        return _apply(VAE_RULES, name)

    return {name: rename(name) for name in names}


def _numbers(pattern: str, names: list[str]) -> list[int]:
    """The numbers that the pattern's group matches in the names."""
    matches = [re.search(pattern, name) for name in names]
    return [int(match[1]) for match in matches if match]


def _apply(rules: Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _in_attention(key: str) -> bool:
    return ".attentions." in key and key.endswith(".weight") and "group_norm" not in key


def _refuse(source: str, problem: str, names: list[str]) -> None:
    if names:
        raise CheckpointError(f"{source} does not fit: its {problem.format(len(names))}, first {names[0]}")
