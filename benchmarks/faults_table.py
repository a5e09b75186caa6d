"""All cases of the fault matrix, in the order of reliability.md's table, and the short selection for CI."""

from __future__ import annotations

import faults_callbacks
import faults_inputs
import faults_plans
import faults_processes
import faults_pure
import faults_steering

GUARD = (*faults_inputs.CASES, *faults_plans.CASES, *faults_processes.CASES, *faults_callbacks.CASES)
CASES = sorted((*faults_pure.CASES, *GUARD, *faults_steering.CASES), key=lambda case: int(case.id[1:]))
# (id, part): one trial each within a minute, all on one set of nodes
QUICK = {("F4", "states"), ("F7", ""), ("F12", "old plans"), ("F13", "one"), ("F20", "absurd"), ("F28", "")}
QUICK |= {("F29", "")}
QUICK |= {(case.id, case.part) for case in faults_pure.CASES}
