"""Optional members of components are found wherever a component keeps them, and stages are told apart."""

import pytest
import torch
from torch import nn

from uldm_core.protocols import (
    Adjustable,
    HasBackbone,
    HasLabels,
    HasLastLayer,
    Previewing,
    Quantized,
    ReadsSplits,
    is_trainer,
)
from uldm_core.run_folder.data import Unopened
from uldm_core.testing.doubles import TinyAutoencoder, TinyCodes
from uldm_plugins.stages.evaluate import Evaluate
from uldm_plugins.stages.train_diffusion import TrainDiffusion


class Holder(nn.Module):
    """Keeps a submodule and a parameter as torch does: neither in the class nor in its own dict."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Identity()
        self.last_layer = nn.Parameter(torch.zeros(1))


class Labelled:
    labels = torch.zeros(1)


@pytest.mark.parametrize(
    ("component", "protocol", "expected"),
    [
        (Holder(), HasBackbone, True),
        (Holder(), HasLastLayer, True),
        (nn.Identity(), HasLastLayer, False),
        (Unopened(1, 4, Labelled), HasLabels, True),
        (Unopened(1, 4, object), HasLabels, False),
        (TinyCodes(), Quantized, True),
        (TinyAutoencoder(), Quantized, False),
        (TrainDiffusion, ReadsSplits, True),
        (TrainDiffusion, Previewing, True),
        (TrainDiffusion, Adjustable, True),
        (Evaluate, ReadsSplits, True),
        (Evaluate, Previewing, False),
    ],
)
def test_an_optional_member_is_found_where_attribute_access_finds_it(component, protocol, expected):
    assert isinstance(component, protocol) is expected


def test_codes_without_their_quantizer_do_not_make_an_autoencoder_quantized():
    autoencoder = TinyCodes()
    del autoencoder.quantizer
    assert not isinstance(autoencoder, Quantized)


def test_trainers_are_told_by_their_class_and_by_an_instance():
    assert is_trainer(TrainDiffusion) and is_trainer(object.__new__(TrainDiffusion))
    assert not is_trainer(Evaluate) and not is_trainer(object.__new__(Evaluate)) and not is_trainer(len)
