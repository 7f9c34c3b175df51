"""A layer runs, and eval(), to() and state_dict() of the model do not reach it.

Signature: a normalising layer runs inside a forward of the model, and no path of the model's leads to it: it is kept
in a plain list or dict, in a closure, or is made anew. It stays in training mode when the model is put into eval, stays
behind on the CPU, is not optimised, and its statistics are in no checkpoint. A mode leak has a layer that is reached
and was switched; this one never is.

What to do: keep layers as attributes of the module, or in nn.ModuleList, nn.ModuleDict or nn.Sequential.
"""

from bncheck.diagnosis.rules.lives import reach
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.finding import Finding
from bncheck.life import Life

CODE = "BN410"
CAUSE = "unregistered"
EXPLAINS = ()


def check_life(life: Life) -> list[Finding]:
    return of_life(life, CODE, CAUSE, [reach.unreached(life)])
