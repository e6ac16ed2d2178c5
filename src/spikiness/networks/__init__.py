"""Raw networks: modules that know nothing of noise levels, data or training."""

from torch import nn

from spikiness.networks.relu_dae import ReLUDAE

# What a kept network may be: its class is looked up here by name, and nowhere else, so that no file names code to run.
REGISTRY: dict[str, type[nn.Module]] = {"ReLUDAE": ReLUDAE}
