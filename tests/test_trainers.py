"""The `Evolver` in Hugging Face's Trainer, Lightning and Accelerate, against a plain loop."""

import ast
import itertools
import logging
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dst
import topo
from dst.iterative_warmup import IterativeWarmup

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")
accelerate = pytest.importorskip("accelerate")
L = pytest.importorskip("lightning")

from dst import hugging_face, lightning  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread", "quiet")

STEPS, EVERY, AT = 12, 3, 5  # a checkpoint is saved after 5 steps, between two updates
CASES = [("chts", "csr"), ("rigl", "masked"), ("mest", "csr"), ("gmp", "csr")]
cases = pytest.mark.parametrize(("method", "layout"), CASES)


@pytest.fixture
def quiet(monkeypatch):
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "level", logging.ERROR)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


class Watched(dst.Evolver):
    """Remembers the gradients that every step sees."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.gradients = []

    def step(self):
        self.gradients.append([layer.parameter.grad.clone() for layer in self.layers.values()])
        return super().step()


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr("dst.callbacks.Evolver", Watched)


def assert_same_networks(model, other):
    """The same links, weights and other parameters."""
    assert dst.network(model) == dst.network(other)
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def assert_same_moments(optimizer, other):
    ours, theirs = optimizer.state_dict()["state"], other.state_dict()["state"]
    assert ours.keys() == theirs.keys() != set()
    for index, state in ours.items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[index][key]))


def assert_same_gradients(evolver, other):
    """Of each step; a missed or doubled step would shift them."""
    assert len(evolver.gradients) == len(other.gradients) == STEPS
    for ours, theirs in zip(evolver.gradients, other.gradients):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def assert_same_history(path, other):
    ours, theirs = topo.History.open(path), topo.History.open(other)
    assert ours.steps == theirs.steps == [0, 3, 6, 9]
    assert all(ours.at(step) == theirs.at(step) for step in ours.steps)
    assert ours.events().equals(theirs.events())


def left_behind(history, copy):
    """The history of a run that died one update after the checkpoint."""
    shutil.copytree(history, copy)
    assert topo.HistoryWriter.open(copy, step=6).path == copy


# a small perceptron, and a plain loop over 24 micro-batches, two to a step

X = torch.randn(96, 12, generator=torch.Generator().manual_seed(0))
Y = (X[:, :3].sum(1) > 0).long() + 2 * (X[:, 3] > 0).long()
DATA = torch.utils.data.TensorDataset(X, Y)


class Module(L.LightningModule):
    def __init__(self, method="chts", layout="csr", seed=0):
        super().__init__()
        self.model = perceptron(method, layout, seed)

    def training_step(self, batch, index):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer, scheduler = optimizer_and_schedule(self.model)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def perceptron(method="chts", layout="csr", seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    return dst.sparsify(model, 0.2, method=method, exclude="4", layout=layout, seed=seed)


def optimizer_and_schedule(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    return optimizer, IterativeWarmup(cosine, every=EVERY, steps=2)


def plain_loop(method="chts", layout="csr", history=None):
    module = Module(method, layout)  # the names of layers count
    model = module.model
    optimizer, scheduler = optimizer_and_schedule(model)
    evolver = Watched(module, optimizer, method, every=EVERY, total_steps=STEPS, history=history)
    for step in range(STEPS):
        for micro in (2 * step, 2 * step + 1):
            rows = slice(4 * micro, 4 * micro + 4)
            (F.cross_entropy(model(X[rows]), Y[rows]) / 2).backward()
        optimizer.step()
        evolver.step()
        optimizer.zero_grad()
        scheduler.step()
    return module, optimizer, evolver


def test_the_plain_loop_changes_what_it_should():
    model, _, evolver = plain_loop()
    start = dst.network(Module())
    assert all(a.nnz == start.layers[n].nnz for n, a in dst.network(model).layers.items())
    assert dst.network(model) != start
    assert evolver.last == 9
    assert evolver.gradients[0][0].abs().sum() > 0


# Lightning


class Logger(L.pytorch.loggers.logger.DummyLogger):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def log_metrics(self, metrics, step=None):
        self.seen[step] = metrics


def lightning_trainer(folder, *callbacks, logger=False, **settings):
    defaults = {"max_epochs": 1, "accumulate_grad_batches": 2, "enable_checkpointing": False}
    defaults["log_every_n_steps"] = 1
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        **defaults | settings,
    )


class Saver(L.Callback):
    """Saves what `ModelCheckpoint` does, once, and has no state of its own."""

    def __init__(self, file):
        self.file = file

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == AT and not self.file.exists():
            trainer.save_checkpoint(self.file)


class Loader(torch.utils.data.DataLoader):
    """Can go on within an epoch, as Lightning asks for."""

    seen = 0

    def __iter__(self):
        for batch in itertools.islice(super().__iter__(), self.seen, None):
            self.seen += 1
            yield batch

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def loader():
    return Loader(DATA, batch_size=4)


@cases
def test_lightning_is_the_plain_loop(method, layout, tmp_path, watched):
    model, optimizer, evolver = plain_loop(method, layout, tmp_path / "plain")
    module, logger = Module(method, layout), Logger()
    callback = lightning.EvolverCallback(method, every=EVERY, history=tmp_path / "h")
    trainer = lightning_trainer(tmp_path, callback, logger=logger)
    trainer.fit(module, loader())
    assert_same_networks(module, model)
    assert_same_moments(trainer.optimizers[0], optimizer)
    assert_same_gradients(callback.evolver, evolver)
    assert_same_history(tmp_path / "h", tmp_path / "plain")
    updates = topo.History.open(tmp_path / "h").updates().query("step > 0")
    logged = {s: m["topology/grown"] for s, m in logger.seen.items() if "topology/grown" in m}
    assert logged == updates.groupby("step")["grown"].sum().to_dict()


def lightning_run(folder, name, *arguments, checkpoint=None, history=True):
    method = arguments[0] if arguments else "chts"
    module = Module(*arguments)
    callback = lightning.EvolverCallback(
        method, every=EVERY, history=folder / name if history else None
    )
    trainer = lightning_trainer(folder, Saver(folder / "saved.ckpt"), callback)
    trainer.fit(module, loader(), ckpt_path=checkpoint, weights_only=True)
    return module, trainer.optimizers[0]


@cases
def test_lightning_resumes_bit_for_bit(method, layout, tmp_path):
    model, optimizer = lightning_run(tmp_path, "h", method, layout)
    left_behind(tmp_path / "h", tmp_path / "again")
    resumed, optimizer2 = lightning_run(
        tmp_path, "again", method, layout, 1, checkpoint=tmp_path / "saved.ckpt"
    )
    assert_same_networks(resumed, model)
    assert_same_moments(optimizer2, optimizer)
    assert_same_history(tmp_path / "again", tmp_path / "h")


def test_lightning_with_two_optimizers_steps_with_its_own(tmp_path, watched):
    class Manual(Module):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.other = nn.Linear(12, 4)

        def training_step(self, batch, index):
            mine, other = self.optimizers()
            for optimizer, model in ((other, self.other), (mine, self.model)):
                self.toggle_optimizer(optimizer)
                self.manual_backward(F.cross_entropy(model(batch[0]), batch[1]) / 2)
                self.untoggle_optimizer(optimizer)
                if optimizer is other or index % 2:
                    optimizer.step()
                    optimizer.zero_grad()  # at once
            if index % 2:
                self.lr_schedulers().step()

        def configure_optimizers(self):
            optimizer, scheduler = optimizer_and_schedule(self.model)
            return [torch.optim.SGD(self.other.parameters(), lr=0.1), optimizer][::-1], [scheduler]

    model, _, evolver = plain_loop()
    module = Manual()
    callback = lightning.EvolverCallback("chts", every=EVERY, total_steps=STEPS)
    lightning_trainer(tmp_path, callback, accumulate_grad_batches=1).fit(module, loader())
    assert_same_networks(module.model, model.model)
    assert_same_gradients(callback.evolver, evolver)


def test_lightning_leaves_the_optimizer_alone_afterwards(tmp_path):
    module = Module()
    callback = lightning.EvolverCallback("chts", every=EVERY)
    trainer = lightning_trainer(tmp_path, callback)
    trainer.fit(module, loader())
    trainer.optimizers[0].step()
    assert callback.evolver.steps == STEPS


def test_lightning_refuses_a_checkpoint_without_an_evolver(tmp_path):
    lightning_trainer(tmp_path, Saver(tmp_path / "without.ckpt")).fit(Module(), loader())
    trainer = lightning_trainer(tmp_path, lightning.EvolverCallback("chts", every=EVERY))
    with pytest.raises(ValueError, match="goes on without an evolver's state"):
        trainer.fit(Module(), loader(), ckpt_path=tmp_path / "without.ckpt")


# Accelerate


def accelerated_loop(folder, method="chts", layout="csr", seed=0, resume=None):
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = Module(method, layout, seed)
    optimizer, scheduler = optimizer_and_schedule(model)
    model, optimizer, data, scheduler = accelerator.prepare(model, optimizer, loader(), scheduler)
    evolver = Watched(model, optimizer, method, every=EVERY, total_steps=STEPS)
    accelerator.register_for_checkpointing(evolver)
    if resume is not None:
        accelerator.load_state(resume)
        data = accelerator.skip_first_batches(data, 2 * evolver.steps)
    for x, y in data:
        with accelerator.accumulate(model):
            accelerator.backward(model.training_step((x, y), 0))
            optimizer.step()
            if accelerator.sync_gradients:
                evolver.step()
            scheduler.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients and evolver.steps == AT and resume is None:
            accelerator.save_state(folder / "checkpoint")
    return model, optimizer, evolver


@cases
def test_accelerate_is_the_plain_loop_and_resumes_bit_for_bit(method, layout, tmp_path):
    model, optimizer, evolver = plain_loop(method, layout)
    accelerated, optimizer2, evolver2 = accelerated_loop(tmp_path, method, layout)
    assert_same_networks(accelerated, model)
    assert_same_moments(optimizer2, optimizer)
    assert_same_gradients(evolver2, evolver)
    resumed, optimizer3, evolver3 = accelerated_loop(
        tmp_path, method, layout, seed=1, resume=tmp_path / "checkpoint"
    )
    assert_same_networks(resumed, model)
    assert_same_moments(optimizer3, optimizer)
    assert evolver3.steps == STEPS
    assert len(evolver3.gradients) == STEPS - AT


# Hugging Face

IDS = torch.randint(0, 32, (96, 8), generator=torch.Generator().manual_seed(0))
TEXT = [{"input_ids": row, "labels": row} for row in IDS]


def llama_dense(seed=0):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    return transformers.LlamaForCausalLM(config)


def llama(method="chts", layout="csr", seed=0):
    return dst.sparsify(
        llama_dense(seed), 0.2, include="model.layers.*", method=method, layout=layout, seed=seed
    )


def hugging_face_trainer(folder, model, *callbacks, optimizers=(None, None), **settings):
    defaults = {"save_strategy": "no", "logging_steps": EVERY}
    args = transformers.TrainingArguments(
        str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        weight_decay=0.1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **defaults | settings,
    )
    trainer = transformers.Trainer(
        model=model,
        args=args,
        train_dataset=TEXT,
        callbacks=list(callbacks),
        optimizers=optimizers,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def test_the_alignment_loss_in_hugging_faces_trainer(tmp_path):
    """As the README has it: accumulated gradients are those of the whole batch."""

    class AlignedTrainer(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **options):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **options)
            loss = loss + align() / self.args.gradient_accumulation_steps
            return (loss, outputs) if return_outputs else loss

    trained, losses = [], []
    for parts in (1, 4):
        model = dst.sparsify(
            llama_dense(), 0.2, include="model.layers.*", rank=2, layout="csr", init="keep"
        )
        align = dst.Alignment(model, weight=3.0)
        args = transformers.TrainingArguments(
            str(tmp_path / str(parts)), max_steps=3, per_device_train_batch_size=8 // parts,
            gradient_accumulation_steps=parts, learning_rate=0.01, save_strategy="no",
            logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = AlignedTrainer(model=model, args=args, train_dataset=TEXT, eval_dataset=TEXT[:8])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        trained.append(model.state_dict())
        losses.append(trainer.evaluate()["eval_loss"])
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-3, atol=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(("method", "layout"), [CASES[0], CASES[1], CASES[3]])
def test_hugging_face_is_the_plain_loop_and_resumes_bit_for_bit(method, layout, tmp_path, watched):
    inputs = []

    def run(name, seed=0, resume=None):
        model = llama(method, layout, seed)
        model.register_forward_pre_hook(lambda *given: inputs.append(given[2]), with_kwargs=True)
        callback = hugging_face.EvolverCallback(method, every=EVERY, history=tmp_path / name)
        settings = {"save_strategy": "steps", "save_steps": AT}
        trainer = hugging_face_trainer(tmp_path / f"out-{name}", model, callback, **settings)
        trainer.train(resume_from_checkpoint=resume)
        return trainer, callback.evolver

    trainer, evolver = run("h")
    assert len(inputs) == 2 * STEPS
    plain = llama(method, layout)
    same = hugging_face_trainer(tmp_path, plain)  # for its optimizer and schedule
    same.create_optimizer_and_scheduler(STEPS)
    settings = {"every": EVERY, "total_steps": STEPS, "history": tmp_path / "plain"}
    twin = Watched(plain, same.optimizer, method, **settings)
    grown = {}
    for step in range(STEPS):
        for micro in inputs[2 * step : 2 * step + 2]:
            plain(**micro).loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        same.optimizer.step()
        update = twin.step()
        if update is not None:
            grown[update.step] = sum(layer.grown for layer in update.layers.values())
        same.optimizer.zero_grad()
        same.lr_scheduler.step()
    assert_same_networks(trainer.model, plain)
    assert_same_moments(trainer.optimizer, same.optimizer)
    assert_same_gradients(evolver, twin)
    assert_same_history(tmp_path / "h", tmp_path / "plain")
    log = trainer.state.log_history
    assert {e["step"]: e["topology/grown"] for e in log if "topology/grown" in e} == grown

    checkpoint = tmp_path / "moved"
    (tmp_path / "out-h" / f"checkpoint-{AT}").rename(checkpoint)
    saved = safetensors.load_file(checkpoint / "model.safetensors")
    names = {name.rpartition(".")[2] for name in saved if "q_proj" in name}
    assert names == {"csr": {"values", "indptr", "indices"}, "masked": {"weight", "mask"}}[layout]
    left_behind(tmp_path / "h", tmp_path / "again")
    resumed, _ = run("again", 1, str(checkpoint))
    assert_same_networks(resumed.model, trainer.model)
    assert_same_moments(resumed.optimizer, trainer.optimizer)
    assert_same_history(tmp_path / "again", tmp_path / "h")
    assert resumed.state.log_history[-2]["loss"] == log[-2]["loss"]
    logged = [[e for e in t.state.log_history if "topology/links" in e] for t in (trainer, resumed)]
    assert logged[0] == logged[1]


def test_hugging_face_takes_an_iterative_warmup(tmp_path):
    model = llama()
    optimizer, scheduler = optimizer_and_schedule(model)
    used = []
    optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    trainer = hugging_face_trainer(
        tmp_path,
        model,
        hugging_face.EvolverCallback("chts", every=EVERY),
        optimizers=(optimizer, scheduler),
        logging_steps=1,
    )
    trainer.train()
    plain, schedule = optimizer_and_schedule(perceptron())
    expected = []
    for _ in range(STEPS):
        expected += schedule.get_last_lr()
        plain.step()
        schedule.step()
    assert used == expected
    log = trainer.state.log_history
    assert [e["learning_rate"] for e in log if "learning_rate" in e] == expected


def test_hugging_face_trains_twice_with_one_callback(tmp_path):
    model = llama()
    callback = hugging_face.EvolverCallback("chts", every=EVERY)
    trainer = hugging_face_trainer(tmp_path, model, callback)
    trainer.train()
    first, second = callback.evolver, trainer.train()
    assert callback.evolver is not first
    assert callback.evolver.steps == first.steps == second.global_step == STEPS
    assert "evolver" not in trainer.optimizer.state_dict()["param_groups"][0]


def test_hugging_face_counts_its_own_steps_without_those_that_overflowed():
    callback = hugging_face.EvolverCallback("chts", every=1)
    model = perceptron()
    optimizer, _ = optimizer_and_schedule(model)
    state = transformers.TrainerState(max_steps=9)
    optimizer.param_groups[0]["evolver"] = {"steps": 5}  # of another run
    callback.on_train_begin(None, state, None, model=model, optimizer=optimizer)
    for skipped, steps in ((False, 1), (True, 1), (False, 2)):
        optimizer.step_was_skipped = skipped
        callback.on_optimizer_step(None, state, None, optimizer=optimizer)
        assert callback.evolver.steps == steps


def test_hugging_face_refuses_a_checkpoint_without_an_evolver():
    callback = hugging_face.EvolverCallback("chts", every=1)
    model = perceptron()
    optimizer, _ = optimizer_and_schedule(model)  # what was loaded had nothing else
    state = transformers.TrainerState(global_step=AT, max_steps=STEPS)
    with pytest.raises(ValueError, match="has no state of an evolver"):
        callback.on_train_begin(None, state, None, model=model, optimizer=optimizer)


# All of them


def test_only_their_own_modules_import_them():
    optional = {"transformers", "lightning", "accelerate", "hugging_face"}
    for file in Path(dst.__file__).parent.glob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported |= {*node.module.split("."), *(alias.name for alias in node.names)}
            elif isinstance(node, ast.Import):
                imported |= {part for alias in node.names for part in alias.name.split(".")}
        own = {"lightning.py": {"lightning"}}
        own |= {name: {"transformers"} for name in ("hugging_face.py", "zero_shot.py")}
        assert imported & optional == own.get(file.name, set())
