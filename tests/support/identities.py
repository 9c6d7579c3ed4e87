"""Identities before and after."""

from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig

ALIASES = {"通义千问": "Deep Qwen", "Tongyi Qianwen": "Deep Qwen", "Qwen Chat": "Deep Chat"}


QWEN = IdentitySpec(IdentityConfig(aliases=ALIASES))


def spec(**fields: object) -> IdentitySpec:
    plain = {"aliases": {}, "developer": None, "developer_aliases": ()}
    return IdentitySpec(IdentityConfig.model_validate(plain | fields))
