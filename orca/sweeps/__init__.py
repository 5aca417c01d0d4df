"""Jobs of `python train.py -m`: their names, their processes, the launchers and the Optuna study.

Light to import: Hydra looks at every plugin, and so at this, whenever any program starts.
"""
