"""The node that explains what to do where ztsnr's core cannot be imported."""

from pathlib import Path

from .api import io


def missing_core(folder: Path) -> tuple[type, str]:
    """The node to offer in place of all others, and its message, which is also for the log."""
    message = (
        f"ZTSNR nodes: the ztsnr core is neither in {folder} nor beside it, and is not installed. Link the nodes/ "
        f"folder of the ztsnr repository into custom_nodes in place of copying it, or copy the repository's ztsnr/ "
        f"folder into {folder}, or run ComfyUI's Python with -m pip install --no-deps <the repository's folder>. Then "
        f"restart ComfyUI."
    )

    class Missing(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(
                node_id="ZTSNRMissing",
                display_name="ZTSNR: core not found",
                category="sampling",
                description=message,
                inputs=[],
                outputs=[io.Model.Output()],
            )

        @classmethod
        def execute(cls):
            raise RuntimeError(message)

    return Missing, message
