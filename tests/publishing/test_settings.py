"""What may be asked for."""

import pytest
from pydantic import ValidationError

from dpo_pipeline.publishing.settings import PublishConfig


@pytest.mark.parametrize("repo", ["../up", "a/b/c", "owner/", "/x", "a b", "a--b", "x" * 97, ""])
def test_odd_repository_names_never_reach_the_hub(repo):
    with pytest.raises(ValidationError, match="model_repo"):
        PublishConfig(model_repo=repo)
