"""Raw networks: modules that know nothing of data or training."""

from torch import nn

from spikiness.errors import Registry
from spikiness.networks.classifier import Classifier
from spikiness.networks.contract import Network, Preconditioned, check_network
from spikiness.networks.dit import DiT
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.networks.time_dae import TimeDAE
from spikiness.networks.unet import UNet
from spikiness.networks.weights import load_weights

__all__ = [
    "REGISTRY", "Classifier", "DiT", "Network", "Preconditioned", "ReLUDAE", "TimeDAE", "UNet", "check_network",
    "load_weights",
]  # fmt: skip

#: The networks that can be kept. A class is looked up here by name and nowhere else, so that no file names code to run.
REGISTRY: Registry[type[nn.Module]] = Registry(
    "network", {kind.__name__: kind for kind in (ReLUDAE, TimeDAE, UNet, DiT, Classifier)}
)
