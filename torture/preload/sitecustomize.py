"""Runs when Python starts in a process of a node whose torture has planted a bug."""

import os

from torture.plants import PLANTS

PLANTS[os.environ["DFS_TORTURE_PLANT"]]()
