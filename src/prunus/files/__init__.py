"""Cut networks in files and on the hub: weights with their plan, read without executing anything."""

from .hub import FromHub, Pushed, from_hub, push_to_hub
from .network import load, plan_of, save, write_network

__all__ = ["FromHub", "Pushed", "from_hub", "load", "plan_of", "push_to_hub", "save", "write_network"]
