"""The demo as a story: each step says what happens and why, then what came of it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedModel

import qlora_kernels as qk
from qlora.demo import judge
from qlora.demo.experiment import PACKAGES, Experiment
from qlora.demo.intents import Parts, Row
from qlora.demo.report import Report, Stopwatch
from qlora.evaluation import Evaluation
from qlora.models import load_tuned
from qlora.provenance import provenance
from qlora.train.result import TrainResult
from qlora.train.trainer import train

NUM_EXAMPLES = 6


@dataclass(frozen=True)
class Baselines:
    """What the test is worth before training."""

    exact: Evaluation
    majority: float
    zero_shot: float


@dataclass(frozen=True, eq=False)
class Story:
    """One experiment, told on a console."""

    experiment: Experiment
    console: Console
    watch: Stopwatch = field(default_factory=Stopwatch)

    def tell(self) -> int:
        """Run everything and write the report; returns the exit code."""
        rows = self._make_data()
        model, tokenizer = self._quantize()
        examples = rows.test[:: len(rows.test) // NUM_EXAMPLES][:NUM_EXAMPLES]
        baselines = self._judge_base(model, tokenizer, rows)
        before = judge.answers(model, tokenizer, examples)
        result = self._train()
        if result.signal or result.adapter is None:
            return 128 + (result.signal or 0)
        qk.load_adapter(model, result.adapter)
        tuned = self._judge_tuned(model, tokenizer)
        after = judge.answers(model, tokenizer, examples)
        self.console.print(_examples(examples, before, after))
        self._conclude(_report(self, rows, result, baselines, tuned))
        return 0

    def _make_data(self) -> Parts[Row]:
        self._title("1  Data: what people say to a smart home, and the intent that they mean")
        with self.watch.phase("data"):
            rows = self.experiment.write_data()
        row = rows.train[0]
        self._say(
            "Home Assistant describes what it understands with templates. This one",
            f"    {row.template.text}",
            "becomes, with names and numbers of an invented home, for instance",
            f"    {row.prompt}{row.completion}",
            "The model reads up to the arrow and is to write the rest. Templates are split, not",
            "sentences: the test asks in ways of speaking that training never shows.",
        )
        for part, members in vars(rows).items():
            count = len({row.template for row in members})
            self._say(f"    {part:12}{len(members):6,} sentences of {count} templates")
        return rows

    def _quantize(self) -> tuple[PreTrainedModel, Any]:
        self._title("2  Model: SmolLM2-135M-Instruct, its linear layers in 4 bits")
        with self.watch.phase("quantize"):
            settings = self.experiment.settings
            model, tokenizer = load_tuned(settings.model, None, settings.layers)
        self._say(
            "NF4 keeps 4 bits per weight and one scale per 64 weights, the scales in 8 bits.",
            "The base stays frozen; training adds small adapters beside it and changes these only.",
        )
        return model, tokenizer

    def _judge_base(self, model: PreTrainedModel, tokenizer: Any, rows: Parts[Row]) -> Baselines:
        self._title("3  Before training")
        with self.watch.phase("judge base"):
            exact = judge.exact_answers(model, tokenizer, self.experiment.data("test"))
            majority = judge.majority_accuracy(rows.train, rows.test)
        with self.watch.phase("zero-shot"):
            intents = sorted({row.intent for row in rows.train})
            test = list({row.template: row for row in rows.test}.values())  # it is slow: one each
            zero_shot = judge.zero_shot_accuracy(model, tokenizer, intents, test)
        self._say(
            f"Exactly right: {exact.accuracy:.1%}; nobody has told the model the names of the",
            f"{len(intents)} intents. Fairer: when it need only choose the likeliest of all, it is",
            f"right in {zero_shot:.1%}. Always the most frequent one is right in {majority:.1%}.",
        )
        return Baselines(exact, majority, zero_shot)

    def _train(self) -> TrainResult:
        self._title("4  Training the adapters")
        self._say("Loss counts on the tokens of the intent only, and on the end that follows them.")
        settings = self.experiment.settings
        shutil.rmtree(settings.folder, ignore_errors=True)  # of an earlier demo
        with self.watch.phase("train"):
            return train(settings, self.console)

    def _judge_tuned(self, model: PreTrainedModel, tokenizer: Any) -> Evaluation:
        self._title("5  After training")
        with self.watch.phase("judge tuned"):
            return judge.exact_answers(model, tokenizer, self.experiment.data("test"))

    def _conclude(self, report: Report) -> None:
        path = report.write(self.experiment.folder / "report.json")
        self.console.print(report.accuracy_table())
        self._say(
            f"memory   {report.memory_line()}",
            f"time     {report.time_line()}",
            f"plot     {report.plot}",
            f"adapter  {report.adapter}",
            f"report   {path}",
            "",
            "Ask it yourself:",
            f"  {_command(self.experiment, report.adapter)}",
        )

    def _title(self, text: str) -> None:
        self.console.print(f"\n{text}", style="bold", markup=False)

    def _say(self, *lines: str) -> None:
        self.console.print("\n".join(lines), markup=False, soft_wrap=True)


def _report(
    story: Story, rows: Parts[Row], result: TrainResult, baselines: Baselines, tuned: Evaluation
) -> Report:
    return Report(
        base_accuracy=baselines.exact.accuracy or 0.0,
        tuned_accuracy=tuned.accuracy or 0.0,
        majority_accuracy=baselines.majority,
        zero_shot_accuracy=baselines.zero_shot,
        base_loss=baselines.exact.loss,
        tuned_loss=tuned.loss,
        num_test_rows=tuned.num_examples,
        num_test_templates=len({row.template for row in rows.test}),
        num_quantized_weights=result.model.num_quantized,
        quantized_bytes=result.model.quantized_bytes,
        bytes_per_weight=result.model.bytes_per_weight,
        seconds=round(sum(story.watch.seconds.values()), 2),
        phase_seconds=story.watch.seconds,
        seed=story.experiment.seed,
        steps=result.steps,
        plot=str(result.plot),
        adapter=str(result.adapter),
        origin=provenance(PACKAGES),
    )


def _examples(rows: Sequence[Row], before: Sequence[str], after: Sequence[str]) -> Table:
    table = Table(title="What the model writes behind the arrow", show_lines=True)
    for column in ("prompt", "base", "tuned"):
        table.add_column(column, overflow="fold")
    for row, base, tuned in zip(rows, before, after, strict=True):
        right = tuned.strip() == row.intent
        answer = Text(tuned.strip(), "green" if right else "red")
        if not right:
            answer.append(f"\nmeant was {row.intent}", "dim")
        table.add_row(Text(row.prompt), Text(" ".join(base.split())), answer)
    return table


def _command(experiment: Experiment, adapter: str) -> str:
    return (
        f".venv/bin/qlora generate --model {experiment.model} --adapter {adapter}"
        ' --prompt "switch the kitchen lamp off please ->"'
    )
