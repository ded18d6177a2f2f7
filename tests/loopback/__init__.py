"""A hub on loopback: it keeps model and dataset repositories, and speaks with the real client as the real one does."""

from loopback.client import client_environment
from loopback.faults import Fault
from loopback.hub import Hub, User
from loopback.server import loopback_hub

__all__ = ["Fault", "Hub", "User", "client_environment", "loopback_hub"]
