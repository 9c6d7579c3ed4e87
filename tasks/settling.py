"""What a run leaves to its model and its data, settled as it goes, and said."""

from typing import TypeVar

from prefect.artifacts import create_table_artifact
from rich.markup import escape
from rich.table import Table

from dpo_pipeline.answers.census import findings, settle
from dpo_pipeline.answers.records import Census
from dpo_pipeline.config import EvaluateConfig, PipelineConfig, SweepConfig
from dpo_pipeline.plaintext import visible
from dpo_pipeline.prompts.preparation import PromptStats
from dpo_pipeline.report.words import census_rows, describe_told
from dpo_pipeline.store.artifacts import Artifact
from tasks.console import console
from tasks.run import Run

C = TypeVar("C", PipelineConfig, SweepConfig, EvaluateConfig)
E = TypeVar("E", PipelineConfig, SweepConfig)


def settle_identity(config: C, found: Artifact[Census]) -> C:
    """Show whom the model says to be, and fill in what the identity leaves to it.

    Raises:
        DataError: Neither the census nor the configuration gives a name to go by.
    """
    run, census = Run.current(), found.stats
    rows = census_rows(census)
    create_table_artifact(rows, key="census", description=describe_told(census))
    table = Table(*rows[0], title="Who is it? Shares of its answers", title_justify="left")
    for row in rows:
        table.add_row(*(escape(visible(cell)) for cell in row.values()))
    console.print(table, describe_told(census), sep="\n", markup=False)
    settled = config.model_copy(update={"identity": settle(config.identity, census)})
    run.fill_in(settled)
    for line in findings(settled.identity, census):
        run.say(f"{'census':<9} {line}", style="yellow")
    return settled


def settle_turns(config: E, prompts: Artifact[PromptStats]) -> E:
    """Fill in what the number of prompts decides: whether each meets every system prompt."""
    if config.generation.in_turn is not None:
        return config
    rows = prompts.stats.rows
    settled = config.model_copy(update={"generation": config.generation.settle(rows)})
    Run.current().fill_in(settled, f"{rows:,} prompts")
    return settled
