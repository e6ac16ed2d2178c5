"""Raw networks: modules that know nothing of data or training."""

from torch import nn

from spikiness.networks.classifier import Classifier
from spikiness.networks.dit import DiT
from spikiness.networks.relu_dae import ReLUDAE
from spikiness.networks.time_dae import TimeDAE
from spikiness.networks.unet import UNet
from spikiness.networks.weights import load_weights

__all__ = ["REGISTRY", "Classifier", "DiT", "ReLUDAE", "TimeDAE", "UNet", "load_weights"]

# What a kept network may be: its class is looked up here by name, and nowhere else, so that no file names code to run.
REGISTRY: dict[str, type[nn.Module]] = {
    "ReLUDAE": ReLUDAE,
    "TimeDAE": TimeDAE,
    "UNet": UNet,
    "DiT": DiT,
    "Classifier": Classifier,
}
