"""Networks that train only some of their parameters."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from ztsnr.models.quantised import quantised_layers

if TYPE_CHECKING:
    from torch.nn.modules.module import _IncompatibleKeys


class PartiallyTrained(nn.Module):
    """Base class whose state_dict has only the trained parameters; the others are reloaded from their source.

    A deep copy, such as a weight average, shares the frozen parameters.
    """

    trainable_names: frozenset[str]

    def save_trainable_only(self) -> None:
        """Call this after requires_grad is set: it selects the parameters that the state contains."""
        self.trainable_names = frozenset(name for name, p in self.named_parameters() if p.requires_grad)
        self.register_state_dict_post_hook(_drop_frozen)
        self.register_load_state_dict_post_hook(_ignore_missing_frozen)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo |= {id(p): p for name, p in self.named_parameters() if name not in self.trainable_names}
        memo |= {id(layer): layer for layer in quantised_layers(self)}
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__ = deepcopy(self.__dict__, memo)
        return copied


def _drop_frozen(network: PartiallyTrained, state: dict[str, Any], prefix: str, _local_metadata: object) -> None:
    for key in list(state):
        if key.startswith(prefix) and key.removeprefix(prefix) not in network.trainable_names:
            del state[key]


def _ignore_missing_frozen(network: PartiallyTrained, incompatible_keys: "_IncompatibleKeys") -> None:
    missing = incompatible_keys.missing_keys
    missing[:] = [key for key in missing if key in network.trainable_names]
