"""What the process imports that `tests.forks` forks: all that the commands import, and nothing that they may lack."""

# ruff: noqa: F401
import gc
import os

import foolbox
import sklearn.datasets
from hydra.core.plugins import Plugins
from joblib.externals.loky.backend.context import set_start_method

import lipcert.jobs.certify
import lipcert.jobs.soundness
import lipcert.recheck
import lipcert.training.run
import tests.train_each
from tests.composed import keep_what_is_composed, learn_to_compose

keep_what_is_composed()
Plugins.instance()  # looks for launchers and sweepers, and imports them
learn_to_compose()
set_start_method("fork")  # several jobs of a sweep at a time are forks, too
os.fsync = lambda descriptor: None  # nobody pulls the plug on a test
gc.freeze()  # the garbage collector need not look at it in every fork
