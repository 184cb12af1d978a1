"""Preconditioned denoisers: what surrounds a network F so that it denoises.

EDM's own (`edm.py`), and one algebra for all that other trainers predict (`targets.py`): noise,
image, v, velocity or score, at discrete noise levels (`discrete.py`) or along a flow (`flow.py`).
"""

from memaudit.models.precond.base import NullLabel as NullLabel
from memaudit.models.precond.base import Preconditioner as Preconditioner
from memaudit.models.precond.base import Scalings as Scalings
from memaudit.models.precond.discrete import DiscretePrecond as DiscretePrecond
from memaudit.models.precond.edm import ConsistencyPrecond as ConsistencyPrecond
from memaudit.models.precond.edm import EDM2Precond as EDM2Precond
from memaudit.models.precond.edm import EDMPrecond as EDMPrecond
from memaudit.models.precond.edm import VEPrecond as VEPrecond
from memaudit.models.precond.edm import VPPrecond as VPPrecond
from memaudit.models.precond.edm import iDDPMPrecond as iDDPMPrecond
from memaudit.models.precond.flow import FlowPrecond as FlowPrecond
from memaudit.models.precond.sde import SDEPrecond as SDEPrecond
from memaudit.models.precond.self_conditioned import (
    SelfConditionedPrecond as SelfConditionedPrecond,
)
