"""The variants of conf/attention, each composed once: that takes longer than to run one."""

from __future__ import annotations

from functools import cache

from sclip_lab.config.registry import load_attention

loaded_variant = cache(load_attention)
