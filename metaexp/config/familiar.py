"""Words that people bring from elsewhere, and what they are here. Data only: `hint` and `hint_choice` look them up.

In a suggestion `{}` stands for the value that was typed. Every suggestion is composed by a test.
"""

from typing import NamedTuple


class Word(NamedTuple):
    """What to type instead of a word.

    Attributes:
        use: settings that exist, of which one or all are meant.
        why: what is different here; may be empty.
        example: a value for `{}`.
        beside: choices without which the settings do not exist.
    """

    use: tuple[str, ...]
    why: str = ""
    example: str = "1"
    beside: tuple[str, ...] = ()


STEPS = Word(("steps={}",), "outer steps: there are no epochs", "100")
INNER_LR = Word(("algo.inner_lr={}",), "the inner loop", "0.1")
OUTER_LR = Word(("optimizer.lr={}",), "the outer loop", "0.1")
INNER_STEPS = Word(("algo.inner_steps={}", "algo.test_steps={}"), "in training, and at test")
META_BATCH = Word(("meta_batch={}",), "tasks per outer step", "4")
SHOTS = Word(("task.shots={}",), example="5")
WAYS = Word(("task.ways={}",), "for tasks with classes", "5", ("task=clusters",))
QUERIES = Word(("task.queries={}",), example="15")
GPU = Word(("device=gpu",), "CUDA_VISIBLE_DEVICES chooses which")
SEVERAL = Word(("device=ddp", "device.devices={}"), "several processes", "2")
FOLDER = Word(("out={}",), "where run folders are made", "outputs")
NAME = Word(("name={}",), "a label in the run folder's name", "trial")
RESUME = Word(("resume={}",), "a run folder or one of its checkpoints, or auto", "auto")
DATA = Word(("task=images", "task.root={}"), "a folder of pictures; docs/own_data.md says more", "pictures")
PRECISION = Word(("device.precision=bf16-mixed",), "or 32, 64-true")
VAL_EVERY = Word(("val.every={}",), "outer steps between validations", "100")
SAVE_EVERY = Word(("checkpoint.every={}",), "outer steps between checkpoints", "100")
LOG_EVERY = Word(("log.every={}",), "outer steps between rows", "100")
CLIP = Word(("clip.norm={}",), "of the meta-gradient", "10")
PATIENCE = Word(("stop.metric=mse", "stop.patience={}"), "validations without a better value", "5")
LIMIT = Word(("time_limit={}",), "90s, 15m, 2h", "2h")
SECOND = Word(("algo=fomaml",), "or algo=maml algo.first_order=true")

_SAME = {
    STEPS: "epochs num_epochs n_epochs max_epochs iterations num_iterations n_iterations iters n_iters max_iter "
    "max_steps num_steps n_steps outer_steps meta_steps meta_iterations metatrain_iterations train_steps",
    INNER_LR: "inner_lr fast_lr adapt_lr adaptation_lr update_lr task_lr step_size alpha",
    OUTER_LR: "outer_lr meta_lr beta meta_learning_rate",
    INNER_STEPS: "inner_steps n_inner num_inner_steps inner_updates num_updates adapt_steps adaptation_steps "
    "update_step num_adaptation_steps",
    META_BATCH: "batch_size meta_batch_size batch meta_bsz tasks_per_batch num_tasks n_tasks task_batch_size",
    SHOTS: "shots shot n_shot n_shots num_shots k_shot k_shots num_shot update_batch_size kshot nshot",
    WAYS: "ways way n_way n_ways num_ways nway num_classes n_classes num_classes_per_task",
    QUERIES: "queries n_query n_queries num_query q_query k_query num_test_shots test_shots",
    GPU: "gpu cuda use_cuda",
    SEVERAL: "gpus num_gpus devices n_gpu ngpus world_size",
    FOLDER: "output_dir output save_dir log_dir logdir out_dir results_dir outdir workdir",
    NAME: "exp_name experiment_name run_name exp label tag",
    RESUME: "ckpt_path ckpt load restore resume_from resume_from_checkpoint load_checkpoint pretrained",
    DATA: "data_dir data_path dataset_path data_root datadir data",
    PRECISION: "fp16 amp bf16 half mixed_precision use_amp",
    VAL_EVERY: "val_every eval_every val_freq eval_freq val_interval eval_interval test_interval val_check_interval",
    SAVE_EVERY: "save_every save_freq save_interval checkpoint_every save_iter",
    LOG_EVERY: "log_every log_interval log_freq print_every print_freq log_every_n_steps",
    CLIP: "grad_clip clip_grad gradient_clip gradient_clip_val max_grad_norm clip_grad_norm",
    PATIENCE: "patience early_stopping early_stop",
    LIMIT: "max_time timeout walltime time",
    SECOND: "first_order fo fomaml",
}
# Settings by a word that no setting has.
WORDS: dict[str, Word] = {name: word for word, names in _SAME.items() for name in names.split()} | {
    "lr": Word(("optimizer.lr={}", "algo.inner_lr={}"), "the outer and the inner loop", "0.1"),
    "learning_rate": Word(("optimizer.lr={}", "algo.inner_lr={}"), "the outer and the inner loop", "0.1"),
    "precision": Word(("device.precision={}",), "", "64-true"),
    "accelerator": Word(("device={}",), "", "cpu"),
    "random_seed": Word(("seed={}",)),
    "manual_seed": Word(("seed={}",)),
    "dataset": Word(("task={}",), "--help task lists them", "omniglot"),
    "algorithm": Word(("algo={}",), "--help algo lists them", "maml"),
    "method": Word(("algo={}",), "--help algo lists them", "maml"),
    "learner": Word(("algo={}",), "--help algo lists them", "maml"),
    "arch": Word(("model={}",), "--help model lists them", "cnn4", ("task=omniglot",)),
    "network": Word(("model={}",), "--help model lists them", "cnn4", ("task=omniglot",)),
    "backbone": Word(("model={}",), "or encoder= for a network that is trained already", "cnn4", ("task=omniglot",)),
    "optim": Word(("optimizer={}",), "", "sgd"),
    "scheduler": Word(("optimizer.schedule={}",), "cosine, linear, onecycle", "cosine"),
    "lr_scheduler": Word(("optimizer.schedule={}",), "cosine, linear, onecycle", "cosine"),
    "weight_decay": Word(("optimizer.weight_decay={}",), "", "0.1"),
    "momentum": Word(("optimizer=sgd", "optimizer.momentum={}"), "", "0.9"),
    "hidden": Word(("model.hidden={}",), "", "[64,64]"),
    "hidden_size": Word(("model.hidden=[{},{}]",), "one number for each layer", "64"),
    "hidden_dim": Word(("model.hidden=[{},{}]",), "one number for each layer", "64"),
    "activation": Word(("model.activation={}",), "", "tanh"),
    "accumulate_grad_batches": Word(("accumulate={}",), "meta-batches per outer step", "2"),
    "gradient_accumulation_steps": Word(("accumulate={}",), "meta-batches per outer step", "2"),
    "test_tasks": Word(("test.tasks={}",), "", "100"),
    "num_test_tasks": Word(("test.tasks={}",), "", "100"),
    "val_tasks": Word(("val.tasks={}",), "", "100"),
    "num_threads": Word(("device.threads={}",), "", "2"),
    "num_workers": Word(("device.threads={}",), "tasks are drawn in the run's own process", "2"),
    "threads": Word(("device.threads={}",), "", "2"),
    "wandb": Word(("logger=wandb",), "beside TensorBoard; csv and mlflow too"),
    "verbose": Word(("log.seconds={}",), "seconds between lines of progress"),
    "fast_dev_run": Word(("debug=fast",), "a run of seconds, to see that everything works"),
    "dry_run": Word(("debug=fast",), "a run of seconds; --dry-run starts nothing"),
    "eval_seed": Word(("task.eval_seed={}",), "of the test tasks"),
    "temperature": Word(
        ("algo.scale={}",), "factor on the logits of protonet and r2d2", "10", ("task=clusters", "algo=protonet")
    ),
}
# Arguments of Lightning's Trainer that a run sets itself, and what to type instead.
TRAINER: dict[str, Word] = {
    "accelerator": Word(("device={}",), "auto, cpu, gpu, mps", "cpu"),
    "devices": Word(("device=ddp", "device.devices={}"), "", "2"),
    "strategy": Word(("device=ddp",), "several processes"),
    "num_nodes": Word((), "start one process per device with torchrun --nnodes; docs/more_than_one_machine.md"),
    "precision": Word(("device.precision={}",), "32, 64-true or bf16-mixed", "64-true"),
    "max_epochs": STEPS,
    "min_epochs": STEPS,
    "max_steps": Word(("steps={}",), "outer steps", "100"),
    "min_steps": Word(("steps={}",), "outer steps", "100"),
    "max_time": LIMIT,
    "fast_dev_run": WORDS["fast_dev_run"],
    "overfit_batches": Word(("steps=100",), "tasks are drawn anew at every step"),
    "limit_train_batches": Word(("steps={}",), "", "100"),
    "limit_val_batches": Word(("val.tasks={}",), "", "100"),
    "limit_test_batches": Word(("test.tasks={}",), "", "100"),
    "limit_predict_batches": Word(("test.tasks={}",), "", "100"),
    "val_check_interval": VAL_EVERY,
    "check_val_every_n_epoch": Word(("val.every=1000",), "outer steps: there are no epochs"),
    "num_sanity_val_steps": Word(("val.every=1000",), "a run always validates before its first step"),
    "log_every_n_steps": LOG_EVERY,
    "logger": Word(("logger=csv",), "csv, mlflow, wandb; TensorBoard always writes"),
    "callbacks": Word((), "use callbacks=, a group file of your own; docs/lightning.md"),
    "accumulate_grad_batches": WORDS["accumulate_grad_batches"],
    "gradient_clip_val": CLIP,
    "gradient_clip_algorithm": Word(("clip.norm=10", "clip.value=10"), "by the norm, by each element"),
    "enable_checkpointing": Word(("checkpoint.every=1000",), "a run always keeps checkpoints"),
    "enable_progress_bar": Word(("log.seconds=10",), "seconds between lines"),
    "inference_mode": Word((), "leave it out: inner loops need gradients"),
    "reload_dataloaders_every_n_epochs": Word((), "leave it out: tasks are drawn anew at every step"),
    "use_distributed_sampler": Word((), "leave it out: processes take disjoint tasks"),
    "default_root_dir": FOLDER,
}
# Choices of groups by a name that none has: (group, name) -> what to type.
CHOICES: dict[tuple[str, str], Word] = {
    ("device", "cuda"): GPU,
    ("device", "cuda:0"): GPU,
    ("device", "0"): GPU,
    ("device", "tpu"): Word(("device=auto",), "cpu, gpu and mps are supported"),
    ("device", "dp"): Word(("device=ddp", "device.devices=2")),
    ("task", "sinusoid"): Word(("task=sine",)),
    ("task", "miniimagenet"): Word(("task=mini_imagenet", "task.root=FOLDER"), "the folder of the authors' files"),
    ("task", "mini-imagenet"): Word(("task=mini_imagenet", "task.root=FOLDER"), "the folder of the authors' files"),
    ("task", "tieredimagenet"): Word(("task=tiered_imagenet", "task.root=FOLDER"), "the folder of the authors' files"),
    ("task", "cifarfs"): Word(("task=cifar_fs", "task.root=FOLDER"), "the folder of the authors' files"),
    ("model", "conv4"): Word(("model=cnn4",), "for pictures", beside=("task=omniglot",)),
    ("model", "convnet"): Word(("model=cnn4",), "for pictures", beside=("task=omniglot",)),
    ("model", "cnn"): Word(("model=cnn4",), "for pictures", beside=("task=omniglot",)),
    ("model", "resnet18"): Word(("task=images", "task.root=FOLDER", "encoder=torchvision"), "a trained backbone"),
    ("algo", "protonets"): Word(("algo=protonet",), beside=("task=clusters",)),
    ("algo", "prototypical"): Word(("algo=protonet",), beside=("task=clusters",)),
    ("algo", "proto"): Word(("algo=protonet",), beside=("task=clusters",)),
    ("algo", "finetune"): Word(("algo=joint",), "trained on all tasks at once, then fine-tuned"),
    ("algo", "baseline"): Word(("algo=joint",), "trained on all tasks at once, then fine-tuned"),
    ("algo", "neuralprocess"): Word(("algo=cnp",), "or acnp, with attention"),
    ("algo", "ridge"): Word(("algo=r2d2",)),
    ("algo", "meta-sgd"): Word(("algo=metasgd",)),
    ("algo", "knn"): Word(("algo=neighbour",)),
    ("logger", "tensorboard"): Word((), "leave it out: TensorBoard always writes"),
    ("optimizer", "adagrad"): Word(("optimizer=adam", "optimizer._target_=torch.optim.Adagrad")),
    ("hydra/launcher", "joblib"): Word(
        (), "its package is missing: pip install hydra-joblib-launcher; or jobs=2 alone"
    ),
    ("hydra/launcher", "submitit_slurm"): Word((), "its package is missing: pip install hydra-submitit-launcher"),
    ("hydra/launcher", "submitit_local"): Word((), "its package is missing: pip install hydra-submitit-launcher"),
    ("hydra/launcher", "ray"): Word((), "its package is missing: pip install hydra-ray-launcher"),
    ("hydra/sweeper", "optuna"): Word((), "its package is missing: pip install 'metaexp[optuna]'"),
}


def hint(name: str, value: str = "") -> str:
    """'; use steps=100 (outer steps ...)' for a setting's or a flag's name that is known from elsewhere, else ''."""
    key = name.lstrip("-+").lower().replace("-", "_")
    word = TRAINER.get(key.removeprefix("trainer.")) if key.startswith("trainer.") else WORDS.get(key)
    return "" if word is None else f"; {said(word, value)}"


def hint_choice(group: str, choice: str) -> str:
    """The same for the name of a choice."""
    word = CHOICES.get((group, choice.lower()))
    return "" if word is None else f"; {said(word, choice)}"


def said(word: Word, value: str = "") -> str:
    """A suggestion in words, with the value that was typed."""
    value = value.replace(", ", ",")
    one = value if value and value.lower() not in ("true", "false", "null", "none") else word.example
    typed = " ".join(form.replace("{}", one) for form in word.use)
    if not typed:
        return word.why
    return f"use {typed}" + (f" ({word.why})" if word.why else "")
