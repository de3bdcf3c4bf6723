"""The servers that speak S3."""

from servers.fixtures import *  # noqa: F403 - fixtures are found by name where they are
