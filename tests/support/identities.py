"""Identities before and after."""

from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig

ALIASES = {"通义千问": "Deep Qwen", "Tongyi Qianwen": "Deep Qwen", "Qwen Chat": "Deep Chat"}


def qwen(**fields: object) -> IdentityConfig:
    """Qwen becomes Deep Qwen, as its census settles it."""
    settled = {"original_name": "Qwen", "new_name": "Deep Qwen"}
    return IdentityConfig.model_validate(settled | fields)


DEEP_QWEN = qwen()
QWEN = IdentitySpec(qwen(aliases=ALIASES))


def spec(**fields: object) -> IdentitySpec:
    plain = {"aliases": {}, "developer": None, "developer_aliases": ()}
    return IdentitySpec(qwen(**(plain | fields)))
