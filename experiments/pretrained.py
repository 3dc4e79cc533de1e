"""The hypernetwork that comes with the package: the whole embedded suite, some 270,000 tokens.

    python -m megan_jax.train --config experiments/pretrained.py --workdir runs/pretrained
    python -m megan_jax.evaluate --workdir runs/pretrained

`run.json`, `weights.safetensors` and `evaluation.json` of that run are what lies in
`megan_jax/assets/smollm2-135m-suite`.
"""

from megan_jax.config import get_default


def get_config(arg: str = ""):
    config = get_default()
    config.model = "smollm2-135m-instruct"
    config.tokenizer.chat_template = "chatml"
    config.hypernet.width = 64
    config.data.types = ("task", "domain", "style", "persona", "sentiment")
    config.data.type_weights = (1.0, 1.0, 1.0, 0.5, 0.5)
    config.data.row_length = 128
    config.data.condition_capacity = 128
    config.train.steps = 700
    config.train.batch_size = 3
    config.train.log_every = 20
    config.train.scan_layers = False
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_ratio = 0.05
    config.eval.limit_per_type = 80
    config.eval.answer_limit = 24
    return config
