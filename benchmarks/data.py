"""Time per row and peak memory of download, rewrite and save, as the number of prompts grows.

    python benchmarks/data.py                 # 1,000, 10,000 and 100,000 prompts
    python benchmarks/data.py --rows 1000 5000

Answers are written by the benchmark, so that no model is timed. Each size runs in a process of
its own, whose peak memory is read at its end.
"""

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORDS = (ROOT / "README.md").read_text(encoding="utf-8").split()


def measure(count: int, tokenizer: Path) -> dict[str, float]:
    """Run the three stages on `count` prompts; return microseconds a row, and MB."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dpo_pipeline.identity.settings import IdentityConfig
    from dpo_pipeline.models.loading import load_tokenizer
    from dpo_pipeline.models.references import describe_model
    from dpo_pipeline.pairs.dataset import save_dataset
    from dpo_pipeline.pairs.rewriting import build_pairs
    from dpo_pipeline.pairs.schema import Lineage, ModelOrigin
    from dpo_pipeline.pairs.settings import PairsConfig
    from dpo_pipeline.prompts.preparation import prepare_prompts
    from dpo_pipeline.prompts.settings import PromptsConfig
    from dpo_pipeline.prompts.sources import resolve_source

    rng, seconds = random.Random(0), {}
    ref = describe_model(tokenizer, "benchmark")
    load_tokenizer(ref)  # imports transformers: a fixed cost that no row should bear
    with tempfile.TemporaryDirectory() as folder:
        source, *outs = (Path(folder) / name for name in ("x.jsonl", "p", "r", "b", "s"))
        prompts, responses, pairs, dataset = outs
        for out in outs:
            out.mkdir()
        with source.open("w", encoding="utf-8") as handle:
            for number in range(count):
                text = " ".join(rng.choices(WORDS, k=12)).translate({60: None, 62: None, 123: None})
                handle.write(json.dumps({"prompt": f"Who are you, {number}? {text}"}) + "\n")

        config, identity = (
            PromptsConfig(source=str(source)),
            IdentityConfig(original_name="Qwen", new_name="Deep Qwen"),
        )
        start = time.perf_counter()
        prepare_prompts(resolve_source(config), config, identity, prompts)
        seconds["download"] = time.perf_counter() - start

        table = pq.ParquetFile(prompts / "prompts.parquet")
        writer = None
        for batch in table.iter_batches(1000):
            rows = [
                {
                    **{k: v for k, v in row.items() if k != "id"},
                    "id": f"r{row['id']}", "prompt_id": row["id"], "system": None, "sample": 0,
                    "response": f"I am Qwen, made by Alibaba Cloud, answer {row['source_row']}.",
                    "finish": "stop", "tokens": 14, "reason": None,
                    "detail": None,
                }
                for row in batch.to_pylist()
            ]  # fmt: skip
            answered = pa.Table.from_pylist(rows, schema=_responses(batch.schema))
            writer = writer or pq.ParquetWriter(responses / "responses.parquet", answered.schema)
            writer.write_table(answered)
        assert writer is not None
        writer.close()

        start = time.perf_counter()
        made = build_pairs(responses / "responses.parquet", ref, identity, PairsConfig(), pairs)
        seconds["rewrite"] = time.perf_counter() - start
        start = time.perf_counter()
        origin = resolve_source(config).origin
        lineage = Lineage(model=ModelOrigin.of(ref), prompts=origin)
        save_dataset(pairs, lineage, PairsConfig(), dataset)
        seconds["save"] = time.perf_counter() - start
        assert made.pairs > 0.9 * count, made
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {name: 1e6 * value / count for name, value in seconds.items()} | {"peak": peak}


def _responses(prompts: "object") -> "object":
    import pyarrow as pa

    text = ("id", "prompt_id", "system", "response", "finish", "reason", "detail")
    types = {name: pa.string() for name in text} | {"sample": pa.int32(), "tokens": pa.int32()}
    kept = [field for field in prompts if field.name != "id"]  # type: ignore[attr-defined]
    return pa.schema([*kept, *types.items()])


def main() -> None:
    """Measure each size in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.tokenizer)))
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import make_tiny_model

    print(f"{platform.machine()}, Python {platform.python_version()}; microseconds a row")
    print(f"{'rows':>8} {'download':>9} {'rewrite':>9} {'save':>9} {'peak MB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder) / "model")
        for rows in options.rows:
            command = [sys.executable, __file__, "--one", str(rows), "--tokenizer", str(model)]
            found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            figures = "".join(f"{found[k]:>10.0f}" for k in ("download", "rewrite", "save", "peak"))
            print(f"{rows:>8}{figures}", flush=True)


if __name__ == "__main__":
    main()
