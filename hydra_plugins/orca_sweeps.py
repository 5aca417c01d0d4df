"""Where Hydra looks for plugins: it takes classes from the package ``hydra_plugins`` alone."""

from importlib.util import find_spec

from orca.sweeps import launchers, study


class JoblibLauncher(launchers.JoblibLauncher):
    """hydra/launcher=joblib"""


class RayLauncher(launchers.RayLauncher):
    """hydra/launcher=ray"""


class OptunaSweeper(study.OptunaSweeper):
    """hydra/sweeper=optuna"""


if find_spec("hydra_plugins.hydra_submitit_launcher") is not None:
    from orca.sweeps import submitit

    class SlurmLauncher(submitit.SlurmLauncher):
        """hydra/launcher=submitit_slurm"""

    class LocalLauncher(submitit.LocalLauncher):
        """hydra/launcher=submitit_local"""
