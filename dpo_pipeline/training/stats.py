"""What the train stage hands on; apart, as no training process knows of templates."""

from dpo_pipeline.identity.system_message import PatchedTemplate
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.training.records import Training


class TrainStats(Training):
    """What training did, the policy, and what was done to its chat template."""

    model: ModelRef
    template: PatchedTemplate | None = None
