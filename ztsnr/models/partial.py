"""Networks of which only a part is trained."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from ztsnr.models.quantised import quantised_layers

if TYPE_CHECKING:
    from torch.nn.modules.module import _IncompatibleKeys


class PartiallyTrained(nn.Module):
    """Base of networks of which only a part is trained. Only that part is in their state; the rest is in its source.

    A copy, as of an average of the weights, shares what is not trained.
    """

    trainable_names: frozenset[str]

    def save_trainable_only(self) -> None:
        """To be called once the parameters to be trained are those that require a gradient."""
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
