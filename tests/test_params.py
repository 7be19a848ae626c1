"""Wrong params files: one sentence each, a non-zero exit code, and nothing touched."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from ruamel.yaml import YAML

from pipeline.baselines.lora import Lora
from pipeline.cli.main import main
from pipeline.config import load_params
from pipeline.config.averaging import ExponentialAveraging
from pipeline.config.optimizer import MuonOptimizer
from pipeline.config.train import TrainParams
from pipeline.errors import PipelineError
from pipeline.schema.section import Section
from pipeline.sweep.variants import Variant
from tests.conftest import ROOT, tiny_params

Edit = Callable[[dict[str, Any]], Any]


def _delete(section: str) -> Edit:
    return lambda params: params.pop(section)


def _set(path: str, value: Any) -> Edit:
    def edit(params: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        node = params
        for parent in parents:
            node = node[parent]
        node[last] = value

    return edit


def _both(*edits: Edit) -> Edit:
    def edit(params: dict[str, Any]) -> None:
        for one in edits:
            one(params)

    return edit


def _study(**keys: Any) -> Edit:
    study = {"path": "texts", "held_out": "inputs/test.parquet", **keys}
    return lambda params: params.update(self_study={"notes": study})


def _library(**keys: Any) -> Edit:
    needed: dict[str, Any] = {
        key: {} for key in ("self_study", "prefix", "train", "distractors", "together")
    }
    documents = {"a": "texts/corpus.txt", "b": "texts/corpus.txt"}
    library = {"documents": documents, "held_out": "texts", **needed, **keys}
    return lambda params: params.update(library=library)


def _of_study(path: str = "data/self_study/notes") -> Edit:
    return lambda params: params.update(data={"source": "corpus", "path": path})


WRONG: dict[str, tuple[Edit, str]] = {
    "no input to look at": (_set("inspection.examples", 0), "inspection.examples = 0 should be greater than or equal to 1."),
    "inputs of the training": (_set("inspection.split", "train"), "inspection.split = 'train' should be 'validation', 'test' or 'test_unseen'."),
    "inputs of a split that there is not": (_set("inspection.split", "test_unseen"), "inspection.split: 'test_unseen' is asked for, but data.files.test_unseen names no such split"),
    "a seed that no table holds": (_set("sweep.seeds", [2**53]), "sweep.seeds.0 = 9007199254740992 should be less than 9007199254740992."),
    "a library's seed of more than 64 bits": (_library(prefix={"seed": 2**64}), "library.prefix.seed = 18446744073709551616 should be less than 9007199254740992."),
    "unknown key": (_set("train.learning_rat", 1e-3), "train.learning_rat: unknown key; did you mean 'learning_rate'?"),
    "key of another section": (_set("evaluate.max_tokens_per_batch", 9), "evaluate.max_tokens_per_batch: unknown key; write it as memory.max_tokens_per_batch."),
    "unknown backend": (_set("hardware", {"attention": "magic"}), "hardware.attention = 'magic' should be 'auto', 'kernel', 'varlen', 'efficient', 'flex' or 'operators'."),
    "no room for two": (_set("memory", {"max_tokens_together": 0}), "memory.max_tokens_together = 0 should be greater than or equal to 1."),
    "no processes": (_set("hardware", {"processes": 0}), "hardware.processes: 0 should be auto or a number of at least 1"),
    "processes on one GPU": (_both(_set("hardware", {"processes": 2}), _set("train.device", "cuda:1")), "hardware.processes: 2 need devices of their own, and train.device: cuda:1 is one; set it to auto, cuda or cpu"),
    "processes on a spread model": (_both(_set("hardware", {"processes": 2}), _set("model.device_map", "auto")), "hardware.processes: 2 each hold a model of their own, and model.device_map: auto spreads one over all devices; set one of them to its default"),
    "sharded and quantized": (_both(_set("hardware", {"processes": 2, "shard_frozen_model": True}), _set("model.quantization", {"library": "torchao", "bits": 8})), "hardware.shard_frozen_model: true does not go with model.quantization, whose weights cannot be split; set one of them to its default"),
    "sharded and compiled": (_both(_set("hardware", {"shard_frozen_model": True}), _set("train.compile", True)), "hardware.shard_frozen_model: true does not go with train.compile: true; use auto"),
    "sharded and spread": (_both(_set("hardware", {"shard_frozen_model": True}), _set("model.device_map", "auto")), "hardware.shard_frozen_model: true does not go with model.device_map, which spreads the model of one process; set one of them to its default"),
    "a GPU's attention on a CPU": (_both(_set("hardware", {"attention": "varlen"}), _set("evaluate.device", "cpu")), "hardware.attention: varlen is for cuda, and evaluate.device is cpu; set one of them to auto"),
    "a CPU's attention on a GPU": (_both(_set("hardware", {"attention": "kernel"}), _set("train.device", "cuda:1")), "hardware.attention: kernel is for cpu, and train.device is cuda:1; set one of them to auto"),
    "spread and compiled": (_both(_set("model.device_map", "auto"), _set("train.compile", True)), "train.compile: true does not go with model.device_map, whose layers are not compiled; set it to auto or false"),
    "quantized and compiled": (_both(_set("model.quantization", {"library": "torchao", "bits": 8}), _set("train.compile", True)), "train.compile: true does not go with model.quantization, whose layers are not compiled; set it to auto or false"),
    "an empty section": (_set("hardware", None), "hardware = None should be a mapping of keys."),
    "an unknown key of hardware": (_set("hardware", {"procesess": 2}), "hardware.procesess: unknown key; did you mean 'processes'?"),
    "a number of processes in quotes": (_set("hardware", {"processes": "2"}), "hardware.processes: '2' should be auto or a number of at least 1"),
    "unknown section": (_set("trian", {}), "trian: unknown key; did you mean 'train'?"),
    "missing section": (_delete("task"), "task: is missing"),
    "wrong type": (_set("train.learning_rate", "fast"), "train.learning_rate: 'fast' should be a valid number, or auto"),
    "an infinite rate": (_set("train.learning_rate", math.inf), "train.learning_rate: inf should be a finite number, or auto"),
    "an infinite rate of a baseline": (_set("trained_baselines.lora", {"type": "lora", "learning_rate": -math.inf}), "trained_baselines.lora.learning_rate: -inf should be a finite number, or auto"),
    "a rate beyond any number": (_set("train.learning_rate", 10**400), "should be a finite number, or auto"),
    "an infinite clipping": (_set("train.max_grad_norm", math.inf), "train.max_grad_norm = inf should be a finite number"),
    "no number for a chat template": (_set("task.chat_template_kwargs", {"share": math.nan}), "task.chat_template_kwargs: {'share': nan} holds what JSON has no form for; write finite numbers"),
    "a rate of nothing": (_set("train.learning_rate", 0), "train.learning_rate: 0 should be greater than 0"),
    "a search from high to low": (_set("train.learning_rate_search", {"lowest": 0.5}), "train.learning_rate_search: lowest: 0.5 has to be below highest: 0.1; set them apart"),
    "a search of one rate": (_set("train.learning_rate_search", {"lowest": 0.01, "highest": 0.010001}), "train.learning_rate_search: lowest: 0.01 and highest: 0.010001 are one rate to three digits, which leaves nothing to search; set them apart"),
    "a search of one": (_set("train.learning_rate_search", {"candidates": 1}), "train.learning_rate_search.candidates = 1 should be greater than or equal to 2"),
    "a search of no steps": (_set("trained_baselines.lora", {"type": "lora", "learning_rate_search": {"share_of_steps": 0}}), "trained_baselines.lora.learning_rate_search.share_of_steps = 0 should be greater than 0"),
    "a search of what does not train": (_both(_set("prefix.kinds", ["state"]), _set("train.learning_rate", "auto"), _set("train.state_learning_rate", 1e-3)), "train.learning_rate: auto searches a rate at which nothing trains, since prefix.kinds: ['state'] leaves states alone, and train.state_learning_rate is theirs; set that to null, which follows the search, or give a number"),
    "out of range": (_set("train.batch_size", 0), "train.batch_size = 0 should be greater than or equal to 1"),
    "unknown choice": (_set("train.schedule", "step"), "train.schedule = 'step' should be 'linear', 'cosine' or 'constant'"),
    "unknown source": (_set("model.source", "ftp"), "model.source = 'ftp' is unknown"),
    "unknown initialisation type": (_set("initializations.corpus.type", "magic"), "initializations.corpus.type = 'magic' is unknown"),
    "statistics of no text": (_set("initializations.random.texts", 8), "texts: 8 is of how many texts statistics are taken, and statistics: standard takes none; leave it out, or set statistics to inputs or vocabulary"),
    "statistics that there are not": (_set("initializations.random.statistics", "model"), "initializations.random.statistics = 'model' should be 'standard', 'inputs' or 'vocabulary'"),
    "a choice without its validation split": (_set("initializations.shown", {"type": "chosen_demonstrations", "path": "data/raw/train.jsonl"}), "initializations.shown.path: 'data/raw/train.jsonl' is not the folder of train.jsonl and validation.jsonl, which chosen_demonstrations reads; use data/raw"),
    "a choice of tables": (_set("initializations.shown", {"type": "chosen_demonstrations", "path": "data/tokenized"}), "initializations.shown.path: 'data/tokenized' is not the folder of train.jsonl"),
    "a choice of more than there are": (_set("initializations.shown", {"type": "chosen_demonstrations", "path": "data/raw", "chosen": 9, "max_examples": 8}), "initializations.shown: chosen: 9 is above max_examples: 8, of which they are chosen; lower it"),
    "undefined initialisation": (_set("sweep.initializations", ["magic"]), "sweep.initializations: 'magic' is not defined"),
    "same item twice": (_set("sweep.lengths", [4, 4]), "sweep.lengths lists 4 twice"),
    "length above the cache": (_set("sweep.lengths", [4, 17]), "sweep.lengths: 17 is above kv_prefix.max_length = 16"),
    "two lengths of training": (_set("train.epochs", 2), "train: give either epochs or max_steps"),
    "impossible combination": (_set("prefix", {"encoder_hidden_size": 8}), "encoder_hidden_size needs prefix_projection"),
    "compiled checkpoints": (_set("train", {"compile": True, "gradient_checkpointing": True}), "compile: true does not go with gradient_checkpointing"),
    "patience without validation": (_set("train", {"early_stopping_patience": 2}), "early_stopping_patience needs eval_every_steps"),
    "a rule of placing that there is not": (_set("model.device_map", "best"), "model.device_map is 'best'; use auto, balanced, sequential, or a mapping of modules to devices"),
    "no such place for a module": (_set("model.device_map", {"lm_head": "tape"}), "model.device_map: puts 'lm_head' on 'tape'; use the number of a GPU, cpu or disk"),
    "a device beside a device map": (_both(_set("model.device_map", "auto"), _set("train.device", "cpu")), "train.device: cpu does not go with model.device_map, which says where the model is; set it to auto"),
    "a library that does not quantize": (_set("model.quantization", {"library": "gptq", "bits": 4}), "model.quantization.library = 'gptq' is unknown; use one of 'bitsandbytes', 'torchao'"),
    "three bits": (_set("model.quantization", {"library": "torchao", "bits": 3}), "model.quantization.bits = 3 should be 8 or 4"),
    "a kind of four bits for eight": (_set("model.quantization", {"library": "bitsandbytes", "bits": 8, "quant_type": "nf4"}), "quant_type and double_quant are of bits: 4; leave them out"),
    "groups of eight bits": (_set("model.quantization", {"library": "torchao", "bits": 8, "group_size": 32}), "group_size is of bits: 4; leave it out"),
    "a word in place of a scheme": (_set("model.quantization", "int8"), "model.quantization = 'int8' should be a mapping of keys."),
    "another library's key": (_set("model.quantization", {"library": "bitsandbytes", "bits": 4, "group_size": 32}), "model.quantization.group_size: unknown key; known keys: bits, double_quant, library, quant_type."),
    "all weights of a quantized model trained": (_both(_set("model.quantization", {"library": "torchao", "bits": 8}), _set("trained_baselines", {"full": {"type": "full_fine_tuning"}})), "trained_baselines.full: full_fine_tuning trains every weight, and those of model.quantization cannot be trained"),
    "quantized weights on disk": (_both(_set("model.quantization", {"library": "torchao", "bits": 8}), _set("model.device_map", {"model": "cpu", "lm_head": "disk"})), "model.device_map: disk does not go with model.quantization, whose weights stay on devices; use cpu or the number of a GPU, or set that to null"),
    "broken template": (_set("task.target_template", "{{ value"), "task.target_template is no valid Jinja2 template"),
    "name with a dash": (_set("sweep.initializations", ["my-corpus"]), "sweep.initializations.0 = 'my-corpus' should match"),
    "split listed twice": (_set("evaluate.splits", ["test", "test"]), "lists test twice; name each item once"),
    "split that is not there": (_set("evaluate.splits", ["test", "test_unseen"]), "data.files.test_unseen names no such split"),
    "missing corpus": (_set("initializations.corpus.path", "texts/none.txt"), "initializations.corpus.path: there is nothing at 'texts/none.txt'"),
    "a data file that DVC does not watch": (_set("data.files.test", "elsewhere/test.csv"), "data.path: 'inputs' does not hold data.files.test = 'elsewhere/test.csv'"),
    "nothing to watch": (lambda p: p["data"].pop("path"), "data.path: is missing; add the file or folder that DVC watches"),
    "missing model folder": (_set("model.path", "nowhere"), "model.path: there is nothing at 'nowhere'"),
    "missing adapter": (_set("baselines.other", {"type": "adapter", "path": "adapters/none"}), "baselines.other.path: there is nothing at 'adapters/none'"),
    "a teacher of evaluation that is none": (_set("evaluate.teacher", "data/teachers/rules"), "evaluate.teacher: 'data/teachers/rules' is not where a teacher of teachers keeps its predictions; use one of these: none is defined; or data/model/config.json for none"),
    "a teacher of evaluation without the test": (_both(_set("teachers", {"rules": {"path": "texts/corpus.txt"}}), _set("evaluate.teacher", "data/teachers/rules")), "evaluate.teacher: 'rules' keeps no predictions of test; set teachers.rules.splits to [train, validation, test]"),
    "no teacher of evaluation": (lambda p: p["evaluate"].pop("teacher"), "evaluate.teacher: is missing, and DVC reads it; add teacher: data/model/config.json"),
    "a start of no initialisation": (_set("baselines.start", {"type": "untrained", "path": "data/kv_prefix/none", "length": 2}), "baselines.start.path: 'data/kv_prefix/none' is not what an initialisation starts from; use one of: data/kv_prefix/corpus, data/kv_prefix/random"),
    "a start that is too long": (_set("baselines.start", {"type": "untrained", "path": "data/kv_prefix/corpus", "length": 17}), "baselines.start.length is too much: sweep.lengths: 17 is above kv_prefix.max_length"),
    "a template without a role": (_set("baselines.text", {"type": "in_context", "path": "texts/corpus.txt", "template": "{{ text }} {{ input }}"}), "template is of a text among the user's words; set role: user"),
    "a baseline as a system's turn without a chat": (lambda p: p["task"].update(use_chat_template=False) or p["baselines"].update(text={"type": "in_context", "path": "texts/corpus.txt", "role": "system"}), "baselines.text.role: system is a turn of a chat"),
    "a summary that no one writes": (_set("baselines.text", {"type": "in_context", "path": "data/self_study/notes/summary.txt"}), "baselines.text.path: 'data/self_study/notes/summary.txt' is the summary of self_study.notes, which writes none; set self_study.notes.summary_tokens to its length"),
    "unknown metric": (_set("evaluate.metrics", ["meteor"]), "evaluate.metrics.0 = 'meteor' should be 'exact_match'"),
    "metric twice": (_set("evaluate.metrics", ["bleu", "bleu"]), "evaluate.metrics lists bleu twice"),
    "sorted by what is not measured": (lambda p: p["evaluate"].update(metrics=["bleu"]) or p["report"].update(sort_by="chrf"), "report.sort_by: 'chrf' is not measured"),
    "more training examples than there are": (lambda p: p["data"].update(max_examples={"train": 8}) or p["sweep"].update(train_sizes=[4, 9]), "sweep.train_sizes: 9 is above data.max_examples.train = 8"),
    "noise in the context": (_set("sweep.in_context", ["random"]), "sweep.in_context: 'random' is not an initialisation whose text can stand in the context; use one of: corpus"),
    "no training sizes": (lambda p: p["sweep"].pop("train_sizes"), "sweep.train_sizes: is missing"),
    "no rates, which DVC reads": (lambda p: p["sweep"].pop("learning_rates"), "sweep.learning_rates: is missing, and DVC reads it; add learning_rates: [], which stands for none"),
    "a further rate of nothing": (_set("sweep.learning_rates", [0.1, 0]), "sweep.learning_rates.1 = 0 should be greater than 0"),
    "a further rate without end": (_set("sweep.learning_rates", [float("inf")]), "sweep.learning_rates.0 = inf should be a finite number"),
    "a further rate that is no number": (_set("sweep.learning_rates", [float("nan")]), "sweep.learning_rates.0 = nan should be a finite number"),
    "a further rate beyond any number": (_set("sweep.learning_rates", [10**400]), "should be a finite number"),
    "a further rate without a point": (_set("sweep.learning_rates", [1]), "sweep.learning_rates.0: 1 should be written with a point, as 1.0"),
    "a further rate twice": (_set("sweep.learning_rates", [1e-2, 0.01]), "sweep.learning_rates lists 0.01 twice"),
    "the rate of all again": (_set("sweep.learning_rates", [5e-3]), "sweep.learning_rates: 0.005 is train.learning_rate, at which every variant trains in any case; leave it out of the list"),
    "further rates of what does not train": (_both(_set("prefix.kinds", ["state"]), _set("sweep.learning_rates", [0.1]), _set("train.state_learning_rate", 1e-3)), "sweep.learning_rates: [0.1] are rates at which nothing trains, since prefix.kinds: ['state'] leaves states alone"),
    "an objective that there is not": (_set("train.objective.type", "magic"), "train.objective.type = 'magic' is unknown; use one of 'target', 'distillation'"),
    "no objective, whose path DVC reads": (lambda params: params["train"].pop("objective"), "train.objective: is missing, and DVC reads its path; add objective: {type: target, path: data/tokenized/splits/train}"),
    "an objective without a teacher": (_set("train.objective", {"type": "distillation", "teacher": "rules", "path": "data/teachers/rules"}), "train.objective.teacher: 'rules' is not under teachers; define it there or use one of: none"),
    "an objective of another folder": (_both(_set("teachers.rules", {"path": "texts/corpus.txt"}), _set("train.objective", {"type": "distillation", "teacher": "rules", "path": "data/teachers/other"})), "train.objective.path: 'data/teachers/other' is not where this teacher's predictions are; use data/teachers/rules"),
    "a share of nothing": (_set("train.objective", {"type": "distillation", "teacher": "rules", "path": "data/teachers/rules", "weight": 0}), "train.objective.weight = 0 should be greater than 0"),
    "a teacher of no text": (_set("teachers.rules", {"path": "texts/none.txt"}), "teachers.rules.path: there is nothing at 'texts/none.txt'; name an existing path"),
    "a teacher without tokens": (_set("teachers.rules", {"path": "texts/corpus.txt", "top_k": 0}), "teachers.rules.top_k = 0 should be greater than or equal to 1"),
    "a system's turn without a chat": (_both(_set("task.use_chat_template", False), _set("teachers.rules", {"path": "texts/corpus.txt", "role": "system"})), "teachers.rules.role: system is a turn of a chat, which needs task.use_chat_template: true; use role: user"),
    "a template of a system's turn": (_set("teachers.rules", {"path": "texts/corpus.txt", "role": "system", "template": "{{ text }}"}), "teachers.rules: template is of a text among the user's words; set role: user, or leave it out"),
    "a teacher of labels": (_both(_set("task.type", "seq_cls"), _set("task.use_chat_template", False), _set("teachers.rules", {"path": "texts/corpus.txt"})), "teachers.rules: a teacher reads its text before the input, which needs task.type: causal_lm; leave it out"),
    "a teacher's device beside a map": (_both(_set("model.device_map", "auto"), _set("teachers.rules", {"path": "texts/corpus.txt", "device": "cpu"})), "teachers.rules.device: cpu does not go with model.device_map"),
    "unknown way to adapt": (_set("trained_baselines.lora", {"type": "ia3"}), "trained_baselines.lora.type = 'ia3' is unknown; use one of 'lora', 'prompt_tuning', 'prefix_and_lora', 'full_fine_tuning'"),
    "a prompt from no text": (_set("trained_baselines.prompt", {"type": "prompt_tuning", "init": "text"}), "trained_baselines.prompt: init: text needs a text to start from; give init_text"),
    "a text for a prompt of noise": (_set("trained_baselines.prompt", {"type": "prompt_tuning", "init": "random", "init_text": "Say."}), "trained_baselines.prompt: init_text has no meaning with init: random; use init: text"),
    "a search of a prefix's rate beside LoRA": (_set("trained_baselines.both", {"type": "prefix_and_lora", "initialization": "corpus", "length": 2, "prefix_learning_rate": "auto"}), "trained_baselines.both.prefix_learning_rate = 'auto' should be a valid number"),
    "LoRA beside an unknown prefix": (_set("trained_baselines.both", {"type": "prefix_and_lora", "initialization": "nosuch", "length": 4}), "trained_baselines.both.initialization: 'nosuch' is not defined under initializations; define it there or use one of: "),
    "LoRA beside a longer prefix than there is": (_set("trained_baselines.both", {"type": "prefix_and_lora", "initialization": "corpus", "length": 4000}), "trained_baselines.both.length is too much: "),
    "misspelt rank": (_set("trained_baselines.lora", {"type": "lora", "rnak": 4}), "trained_baselines.lora.rnak: unknown key; did you mean 'rank'?"),
    "a baseline of two lengths": (_set("trained_baselines.lora", {"type": "lora", "epochs": 1, "max_steps": 9}), "trained_baselines.lora: give epochs or max_steps, not both"),
    "one name for two baselines": (_set("trained_baselines.no_prefix", {"type": "lora"}), "trained_baselines.no_prefix: another baseline has this name"),
    "a trained baseline called as all prefixes are": (_set("trained_baselines.prefix", {"type": "lora"}), "trained_baselines.prefix: 'prefix' is what the prefixes of the sweep are called as a method in the report's tables by budget; rename it"),
    "DVC's interpolation in a template": (_set("task.input_template", "{{ record }} costs ${{ key }}"), "task.input_template: '${{ key }}' is an interpolation to `dvc exp run -S`, which fails on it or replaces it; in Jinja2 write {{ '$' }} for the $"),
    "one that is never closed": (_set("task.target_template", "{{ value }} ${"), "task.target_template: '${' is an interpolation"),
    "one that is escaped for DVC": (_set("mlflow.experiment", "a \\${x}"), "mlflow.experiment: '${x}' is an interpolation to `dvc exp run -S`, which fails on it or replaces it; leave it out"),
    "one in a list": (_set("initializations.words", {"type": "vocabulary", "path": "data/model/config.json", "words": ["a", "${oc.env:HOME}"]}), "initializations.words.words.1: '${oc.env:HOM' is an interpolation"),
    "a missing value of Hydra's": (_set("task.target_template", "???"), "task.target_template = '???' is no value to `dvc exp run -S`"),
    "a path as an experiment": (_set("mlflow.experiment", "team/tiny"), "mlflow: experiment is 'team/tiny', which MLflow takes for no registered model's name; leave out /; an experiment may be called so where registered_model names the model"),
    "a colon in a registered model": (_set("mlflow.registered_model", "tiny:1"), "mlflow.registered_model is 'tiny:1', which MLflow takes for no registered model's name; leave out :"),
    "a folder above as a registered model": (_set("mlflow.registered_model", ".."), "mlflow.registered_model is '..', which MLflow takes for a path"),
    "a blank experiment": (_set("mlflow.experiment", " "), "mlflow.experiment is ' '; use a name of printable characters"),
    "an experiment longer than a database keeps": (_set("mlflow.experiment", "a" * 257), "should have at most 256 characters"),
    "an alias that stands for the winner": (_set("baselines.best", {"type": "adapter", "path": "inputs"}), "baselines.best: 'best' stands for the winner of the report wherever a variant is named; rename it"),
    "the sweep's own run": (_set("baselines.sweep", {"type": "no_prefix", "path": "data/model/config.json"}), "baselines.sweep: 'sweep' is what the run of the whole sweep is called"),
    "an alias of MLflow's": (_set("baselines.latest", {"type": "adapter", "path": "inputs"}), "baselines.latest: MLflow keeps 'latest' for itself"),
    "a version of MLflow's": (_set("baselines.v1", {"type": "adapter", "path": "inputs"}), "baselines.v1: MLflow keeps 'v1' for itself"),
    "an adapter called as an initialisation": (_set("baselines.corpus", {"type": "adapter", "path": "inputs"}), "baselines.corpus: an initialisation has this name; rename it"),
    "a corpus that is not there": (_study(path="texts/none"), "self_study.notes.path: there is nothing at 'texts/none'; name an existing path"),
    "no questions for the test": (_study(held_out="none.csv"), "self_study.notes.held_out: there is nothing at 'none.csv'"),
    "nothing that is asked for": (_study(prompts=[]), "self_study.notes.prompts = [] should have at least 1 item"),
    "an unknown kind of prompt": (_study(prompts=["sumary"]), "self_study.notes.prompts: 'sumary' is no kind of prompt; use one of structure, summary, question, use_case, creative, or your own as {kind: <name>, prompt: <text>}"),
    "a kind of prompt twice": (_study(prompts=["summary", {"kind": "summary", "prompt": "a"}]), "self_study.notes.prompts lists the kind 'summary' twice"),
    "a prompt of white space": (_study(prompts=[{"kind": "own", "prompt": " "}]), "self_study.notes.prompts.0.prompt = ' ' should match the pattern"),
    "an unknown generator": (_study(generator={"type": "openai"}), "self_study.notes.generator.type = 'openai' is unknown; use one of 'frozen_model', 'server'"),
    "a server without a model": (_study(generator={"type": "server", "url": "http://localhost:8000/v1"}), "self_study.notes.generator.model: is missing; add it"),
    "a server that is no URL": (_study(generator={"type": "server", "url": "localhost", "model": "m"}), "self_study.notes.generator.url = 'localhost' should match the pattern"),
    "a password in params.yaml": (_study(generator={"type": "server", "url": "http://me:secret@host", "model": "m"}), "self_study.notes.generator.url = 'http://me:secret@host' should match the pattern"),
    "a generator on two places": (_both(_study(generator={"type": "frozen_model", "device": "cpu"}), _set("model.device_map", "auto")), "self_study.notes.generator.device: cpu does not go with model.device_map"),
    "a misspelt key of a self-study": (_study(chunk_token=9), "self_study.notes.chunk_token: unknown key; did you mean 'chunk_tokens'?"),
    "rows of a self-study that there is not": (_of_study(), "data.path: 'data/self_study/notes' is what self_study.notes would write, which is not defined; define it, or use one of: none"),
    "a document that is not there": (_library(documents={"a": "texts/none", "b": "texts"}), "library.documents.a: there is nothing at 'texts/none'; name an existing path"),
    "a library that DVC could not read": (lambda p: _library()(p) or p["library"].pop("prefix"), "library.prefix: is missing, and DVC reads it; add prefix: {}"),
    "no company for a document": (_library(documents={"a": "texts/corpus.txt"}), "library.distractors.count: 1 others at once are more than there are beside one of 1 documents; lower it, to 0 for none"),
    "more prefixes at once than documents": (_library(together={"three": {"count": 3}}), "library.together.three.count: 3 prefixes at once are more than the 2 documents"),
    "a library's own folder of distractors": (_library(prefix={"distractors": {"count": 1}}), "library.prefix.distractors: those of a library are its other documents; write count and probability under library.distractors"),
    "a library of states": (_library(prefix={"kinds": ["state"]}), "library.prefix.kinds: states cannot stand beside others; use [attention], or null"),
    "a library whose prefixes are all frozen": (_library(prefix={"length": 4, "num_frozen_tokens": 4}), "library.prefix.num_frozen_tokens: 4 leaves nothing to train of 4 virtual tokens"),
    "a library of an encoder": (_library(prefix={"parts": ["encoder"]}), "library.prefix.parts: ['encoder'] needs a model with an encoder, and a library needs a decoder alone; use null"),
    "a head for each document": (_library(prefix={"modules_to_save": ["lm_head"]}), "library.prefix.modules_to_save: ['lm_head'] would be trained for each document"),
    "a document's own demonstrations": (_library(prefix={"leave_one_out": True}), "library.prefix.leave_one_out: true hides training examples that a prefix started from, and a document's starts from its text; set it to false"),
    "a rate for a document's states": (_library(train={"learning_rate": "auto", "state_learning_rate": 1e-3}), "library.train.state_learning_rate: 0.001 is of initial states, and prefixes that stand beside others have none; set it to null"),
    "a quantized library, compiled": (_both(_library(train={"compile": True}), _set("model.quantization", {"library": "torchao", "bits": 8})), "library.train.compile: true does not go with model.quantization, whose layers are not compiled; set it to auto or false"),
    "a distilled library": (_library(train={"objective": {"type": "distillation", "teacher": "t", "path": "p"}}), "library.train.objective: a library is trained on the answers of self-study; leave it out"),
    "a library of classes": (_both(_library(), _set("task.type", "seq_cls"), _set("task.use_chat_template", False)), "library.documents: need a decoder alone, and task.type is seq_cls; leave library out"),
    "a library trained in two places": (_both(_library(train={"device": "cpu"}), _set("model.device_map", "auto")), "library.train.device: cpu does not go with model.device_map"),
    "a misspelt key of a library": (_library(distractor={}), "library.distractor: unknown key; did you mean 'distractors'?"),
    "a split of the test that is not held out": (_both(_study(), _of_study(), _set("evaluate.splits", ["test", "test_unseen"])), "evaluate.splits: 'test_unseen' is asked for, but self_study.notes.held_out = 'inputs/test.parquet' is no folder with a file of that name"),
    "a start called as a seed": (_set("initializations.seed1", {"type": "zero", "path": "data/model/config.json"}), "initializations.seed1: is what a variant's name has for its seed or its training size"),
    "names that differ by case": (_set("initializations.Corpus", {"type": "zero", "path": "data/model/config.json"}), "initializations.Corpus = 'Corpus' should match"),
    "a name too long for a folder": (_set("baselines." + "a" * 101, {"type": "no_prefix", "path": "data/model/config.json"}), "should have at most 100 characters"),
    "an empty path": (_set("model.path", ""), "model.path = '' should have at least 1 character"),
    "an empty path of what reads no file": (_set("initializations.random.path", ""), "initializations.random.path = '' should have at least 1 character"),
    "a separator of words where there are none": (_set("task.word_separator", "\n"), "task: word_separator needs type: token_cls"),
    "a separator that texts hold": (_set("task.word_separator", "|"), "task.word_separator = '|' should match the pattern"),
    "no kind of prefix": (_set("prefix", {"kinds": []}), "prefix.kinds = [] should have at least 1 item"),
    "an unknown kind of prefix": (_set("prefix", {"kinds": ["memory"]}), "prefix.kinds.0 = 'memory' should be 'attention' or 'state'"),
    "a kind of prefix twice": (_set("prefix", {"kinds": ["state", "state"]}), "kinds lists one twice: state, state"),
    "a layer twice": (_set("prefix", {"layers": [1, 0, 1]}), "layers lists one twice: 1, 0, 1"),
    "a sink in states": (_set("prefix", {"kinds": ["state"], "num_frozen_tokens": 1}), "num_frozen_tokens: 1 is of virtual tokens that inputs attend to, and kinds: [state] has none; set it to 0, or add attention"),
    "windows over states": (_set("prefix", {"kinds": ["state"], "prefix_always_visible": True}), "prefix_always_visible: true is of virtual tokens that inputs attend to, and kinds: [state] has none; set it to false, or add attention"),
    "a projection to states": (_set("prefix", {"kinds": ["state"], "prefix_projection": True}), "prefix_projection: true is of virtual tokens that inputs attend to, and kinds: [state] has none; set it to false, or add attention"),
    "dropout of states": (_set("prefix", {"kinds": ["state"], "prefix_dropout": 0.1}), "prefix_dropout: 0.1 is of virtual tokens that inputs attend to, and kinds: [state] has none; set it to 0, or add attention"),
    "a rate for states left out": (_both(_set("prefix.kinds", ["attention"]), _set("train.state_learning_rate", 1e-3)), "train.state_learning_rate: 0.001 is of initial states, which prefix.kinds: ['attention'] leaves out; set it to null"),
    "an unknown optimizer": (_set("train.optimizer", {"type": "sgd"}), "train.optimizer.type = 'sgd' is unknown; use one of 'adamw', 'muon'."),
    "another optimizer's key": (_set("train.optimizer", {"type": "adamw", "momentum": 0.9}), "train.optimizer.momentum: unknown key; known keys: betas, eps, type."),
    "three decays": (_set("train.optimizer", {"type": "adamw", "betas": [0.9, 0.9, 0.9]}), "train.optimizer.betas = [0.9, 0.9, 0.9] should have at most 2 items"),
    "an optimizer without a type": (_set("train.optimizer", {"betas": [0.9, 0.99]}), "train.optimizer.type: is missing; it says which kind this is."),
    "keys that never move": (_set("train.key_rate_factor", 0), "train.key_rate_factor = 0 should be greater than 0"),
    "a mean that never moves": (_set("train.averaging", {"type": "ema", "decay": 1.0}), "train.averaging.decay = 1.0 should be less than 1"),
    "a tail after the end": (_set("train.averaging", {"type": "tail", "start": 1.0}), "train.averaging.start = 1.0 should be less than 1"),
    "an unknown mean": (_set("train.averaging", {"type": "swa"}), "train.averaging.type = 'swa' is unknown; use one of 'ema', 'tail'."),
    "muon of states": (_both(_set("prefix.kinds", ["state"]), _set("train.optimizer", {"type": "muon"})), "train.optimizer.type: muon is of keys and values, and prefix.kinds: [state] has none; set it to adamw, or add attention"),
    "relative rates of states": (_both(_set("prefix.kinds", ["state"]), _set("train.relative_rates", True)), "train.relative_rates: true is of keys and values, and prefix.kinds: [state] has none; set it to false, or add attention"),
    "keys of an MLP": (_both(_set("prefix.prefix_projection", True), _set("train.key_rate_factor", 0.5)), "train.key_rate_factor: 0.5 is of keys and values that are trained themselves, and prefix.prefix_projection: true trains an MLP that yields them; set it to 1.0, or prefix_projection to false"),
    "relative rates of an MLP in a library": (_library(prefix={"prefix_projection": True}, train={"relative_rates": True}), "library.train.relative_rates: true is of keys and values that are trained themselves, and library.prefix.prefix_projection: true trains an MLP"),
    "no rate for states": (_set("train.state_learning_rate", 0), "train.state_learning_rate = 0 should be greater than 0"),
    "states of an encoder-decoder": (_both(_set("prefix.kinds", ["state"]), lambda p: p["task"].update(type="seq2seq_lm", use_chat_template=False)), "prefix.kinds: ['state'] needs a decoder with recurrent layers, and task.type: seq2seq_lm has an encoder-decoder; use null"),
    "distractors that it would write itself": (_set("prefix", {"distractors": {"path": "data/train", "count": 1}}), "prefix.distractors: path: 'data/train' is written by the stage that would read it; copy the prefixes of other documents"),
    "more distractors than are named": (_set("prefix", {"distractors": {"path": "others", "prefixes": ["a"], "count": 2}}), "prefix.distractors: count: 2 at once are more than the 1 of prefixes; lower it or name more"),
    "a distractor twice": (_set("prefix", {"distractors": {"path": "others", "prefixes": ["a", "a"], "count": 1}}), "lists a twice"),
    "distractors of states": (_set("prefix", {"kinds": ["state"], "distractors": {"path": "others", "count": 1}}), "distractors.count: 1 needs prefixes of keys and values"),
    "distractors of an encoder-decoder": (_both(_set("prefix", {"distractors": {"path": "others", "count": 1}}), lambda p: p["task"].update(type="seq2seq_lm", use_chat_template=False)), "prefix.distractors.count: 1 needs a decoder alone, and task.type is seq2seq_lm; set it to 0"),
    "distractors never": (_set("prefix", {"distractors": {"path": "others", "probability": 0.0}}), "prefix.distractors.probability = 0.0 should be greater than 0"),
    "every token dropped": (_set("prefix.token_dropout", 1.0), "prefix.token_dropout = 1.0 should be less than 1"),
    "token dropout of states": (_set("prefix", {"kinds": ["state"], "token_dropout": 0.1}), "token_dropout: 0.1 is of virtual tokens that inputs attend to, and kinds: [state] has none; set it to 0, or add attention"),
    "no demonstration to leave out": (_set("prefix.leave_one_out", True), "prefix.leave_one_out: true hides training examples that a prefix started from, and no initialisation in sweep.initializations is of type demonstrations or chosen_demonstrations; add one, or set it to false"),
    "demonstrations of an encoder-decoder": (_both(_set("prefix.leave_one_out", True), lambda p: p["task"].update(type="seq2seq_lm", use_chat_template=False)), "prefix.leave_one_out: true needs inputs and targets in one text, and task.type: seq2seq_lm reads them apart; set it to false"),
    "everything frozen": (_set("prefix.num_frozen_tokens", 2), "prefix.num_frozen_tokens: 2 leaves nothing to train"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with valid params and an output of an earlier run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inputs").mkdir()
    (tmp_path / "texts").mkdir()
    for name in ("train.jsonl", "validation.csv", "test.parquet"):
        (tmp_path / "inputs" / name).write_text("{}")
    (tmp_path / "texts" / "corpus.txt").write_text("{}")
    (tmp_path / "model").mkdir()
    earlier = tmp_path / "data" / "train" / "len2-random-seed0" / "prefix.safetensors"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"earlier")
    return tmp_path


def _write(folder: Path, params: dict[str, Any]) -> None:
    yaml = YAML(typ="safe")
    # Its flow style writes "???" so that it cannot be read back.
    yaml.default_flow_style = False
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)


@pytest.mark.parametrize(
    "command", [["check"], ["train", "--length", "2", "--initialization", "random", "--seed", "0"]]
)
@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_sentence(folder: Path, name: str, command: list[str]) -> None:
    edit, expected = WRONG[name]
    params = tiny_params(folder / "model")
    edit(params)
    _write(folder, params)

    result = CliRunner().invoke(main, command)

    assert result.exit_code == 1
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr
    earlier = folder / "data" / "train" / "len2-random-seed0" / "prefix.safetensors"
    assert earlier.read_bytes() == b"earlier"


def test_the_unedited_params_pass(folder: Path) -> None:
    _write(folder, tiny_params(folder / "model"))
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 0, result.stderr


RIGHT: dict[str, Edit] = {
    "a library of one document alone": _library(documents={"a": "texts/corpus.txt"}, distractors={"count": 0}),
    "questions about a corpus, by a server": _both(_study(generator={"type": "server", "url": "http://localhost:8000/v1", "model": "m"}, prompts=["summary", {"kind": "exam", "prompt": "Ask."}]), _of_study()),
    "nothing but Jinja2 in a template": _set("task.input_template", "{{ record }} costs {{ '$' }}{{ key }} $5 {}"),
    "a path as an experiment, the model named": lambda p: p["mlflow"].update(experiment="/Users/me/tiny", registered_model="catalog.schema.tiny"),
    "a path as an experiment, no model": lambda p: p["mlflow"].update(experiment="a/b:c", models="none"),
    "names that MLflow keeps, where they have a length and a seed": lambda p: p["initializations"].update(dict.fromkeys(("best", "sweep", "latest", "v1"), p["initializations"]["random"])) or p["sweep"].update(initializations=["best", "sweep", "latest", "v1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_looks_like_a_mistake_and_is_none(folder: Path, name: str) -> None:
    params = tiny_params(folder / "model")
    RIGHT[name](params)
    _write(folder, params)
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a [*a]\n", "a: unknown key"),
        ("model: [", "is no valid YAML at line"),
        ("- a\n- b\n", "must be a mapping of sections"),
        ("train: {}\ntrain: {}\n", "is no valid YAML at line 2"),
    ],
)
def test_a_file_that_is_no_yaml_mapping(folder: Path, text: str, expected: str) -> None:
    (folder / "params.yaml").write_text(text)
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 1
    assert expected in result.stderr


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_key_of_any_section_takes_what_is_no_finite_number(value: float) -> None:
    """One mistake at the key itself, which the sentences above tell."""
    keys = [(section, key) for section in _sections(Section) for key in _numbers(section)]
    assert len(keys) > 40
    for section, key in keys:
        is_list = _numbers(section)[key] == "array"
        with pytest.raises(ValidationError) as refused:
            section.model_validate({key: [value] if is_list else value})
        own = [error for error in refused.value.errors() if error["loc"][0] == key]
        assert [error["loc"] for error in own] == [(key, 0) if is_list else (key,)], section
        assert "should be a finite number" in own[0]["msg"], (section, own)


def _sections(kind: type[Section]) -> Iterator[type[Section]]:
    for section in kind.__subclasses__():
        yield section
        yield from _sections(section)


def _numbers(section: type[Section]) -> dict[str, str]:
    """The keys that take numbers which need not be whole; "array" for a list of them."""
    found = section.model_json_schema()["properties"]
    return {
        key: how.get("type", "number")
        for key, how in found.items()
        if "'type': 'number'" in str(how)
    }


def test_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 1
    assert "params.yaml: no such file" in result.stderr


def test_several_mistakes_are_told_together(folder: Path) -> None:
    params = tiny_params(folder / "model")
    params["train"]["batch_size"] = "x"
    params["kv_prefix"]["max_length"] = "y"
    _write(folder, params)
    result = CliRunner().invoke(main, ["check"])
    assert "train.batch_size" in result.stderr
    assert "kv_prefix.max_length" in result.stderr


def test_the_committed_params_are_valid() -> None:
    assert load_params(ROOT / "params.yaml").sweep.lengths


def test_a_baseline_trains_as_train_says_where_it_says_nothing_itself() -> None:
    train = TrainParams(epochs=2, batch_size=4, weight_decay=0.1)
    own = Lora(type="lora", learning_rate=1e-3, max_steps=7).training(train)
    assert (own.epochs, own.max_steps, own.learning_rate) == (None, 7, 1e-3)
    assert (own.batch_size, own.weight_decay) == (4, 0.1)
    assert Lora(type="lora").training(train).epochs == 2


def test_what_is_of_keys_and_values_is_no_baselines() -> None:
    muon = MuonOptimizer(type="muon", betas=[0.8, 0.9], adamw_learning_rate=1.0)
    mean = ExponentialAveraging(type="ema")
    train = TrainParams(optimizer=muon, relative_rates=True, averaging=mean)
    own = Lora(type="lora", learning_rate=1e-3).training(train.of_weights())
    assert (own.adamw_rate, own.moves_blocks, own.optimizer.betas) == (1e-3, False, [0.8, 0.9])
    assert own.averaging == mean


@pytest.mark.parametrize(
    ("own", "suffix"),
    [
        ({}, ""),
        ({"train_size": 50}, "-train50"),
        ({"learning_rate": 1e-2}, "-lr0.01"),
        ({"learning_rate": 1e-5}, "-lr1e-05"),
        ({"learning_rate": 1e22}, "-lr1e+22"),
    ],
)
def test_a_variants_name_and_back(own: dict[str, Any], suffix: str) -> None:
    variant = Variant(32, "corpus", 1, **own)
    assert variant.name == f"len32-corpus-seed1{suffix}"
    assert Variant.parse(variant.name) == variant


@pytest.mark.parametrize("rate", ["0", "-0.1", "nan", "inf"])
def test_a_rate_on_the_command_line(rate: str) -> None:
    named = ("--length", "2", "--initialization", "corpus", "--seed", "0")
    result = CliRunner().invoke(main, ["train", *named, "--learning-rate", rate])
    assert result.exit_code == 2
    assert f"{rate} is no learning rate; give a number above 0" in result.stderr


def test_a_size_and_a_rate_at_once_are_refused() -> None:
    named = ("--length", "2", "--initialization", "corpus", "--seed", "0")
    both = ("--train-size", "4", "--learning-rate", "0.1")
    result = CliRunner().invoke(main, ["evaluate", *named, *both])
    assert result.exit_code == 1
    assert "give --train-size or --learning-rate alone" in result.stderr


def test_a_chunk_with_questions_and_answers_fits_the_model() -> None:
    from pipeline.config import Params
    from pipeline.preflight.self_study import check_room

    params = tiny_params(Path("model"))
    _study(chunk_tokens=300, max_question_tokens=50, max_answer_tokens=150)(params)
    fits = Params.model_validate(params)
    check_room(fits, {"max_position_embeddings": 500}, lambda text: 9)
    with pytest.raises(PipelineError, match="are 500 tokens, more than the model's context of 499"):
        check_room(fits, {"max_position_embeddings": 499}, lambda text: 9)
    with pytest.raises(PipelineError, match="are 600 tokens"):
        check_room(fits, {"max_position_embeddings": 599}, lambda text: 250)
    with pytest.raises(PipelineError, match="needs a decoder that writes text, which t5 is not"):
        check_room(fits, {"is_encoder_decoder": True, "model_type": "t5"}, len)
    server = {"type": "server", "url": "http://localhost:8000/v1", "model": "m"}
    _study(chunk_tokens=300, generator=server)(params)
    check_room(Params.model_validate(params), {"max_position_embeddings": 9}, len)


def test_prefixes_that_stand_together_need_room(folder: Path) -> None:
    from pipeline.preflight.context import check_lengths

    params = tiny_params(folder / "model")
    _library(prefix={"length": 200})(params)
    _write(folder, params)
    check_lengths(load_params(), {"max_position_embeddings": 528})
    with pytest.raises(PipelineError, match=r"^library\.prefix\.length: 2 prefixes of 200 virtual"):
        check_lengths(load_params(), {"max_position_embeddings": 527})
