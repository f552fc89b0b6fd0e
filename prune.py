"""Computes layer-wise pruning ratios.

python prune.py --config configs/resnet20_cifar10.py
"""

import sys

from configs.loading import fail, parse_command_line
from configs.schema import Config
from deepzero_jax.platform import keep_freed_memory


def main(arguments: list[str] | None = None) -> int:
    """Scores the parameters at initialisation, writes the ratios, prints a table."""
    options, config = parse_command_line(
        "prune.py", "Compute the layer-wise pruning ratios of a network.", arguments
    )
    keep_freed_memory()
    from configs import experiment as experiments
    from configs import ratios

    try:
        if not isinstance(config, Config):
            raise ValueError(f"{options.config} prunes nothing: it is a {type(config).__name__}")
        experiments.use_compilation_cache()
        if config.pruning.sparsity == 0:
            raise ValueError(
                "pruning.sparsity is 0: nothing to prune; give --config.pruning.sparsity=0.9"
            )
        experiment = experiments.build(config)
        content = ratios.find_ratios(experiment, options.workdir)
    except (ValueError, TypeError, OSError) as error:
        return fail("prune.py", error, status=2)
    print(ratios.describe_ratios(experiment, content))
    print(f"{content['num_queries']:,} queries; wrote {options.workdir}/ratios.json, ratios.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
