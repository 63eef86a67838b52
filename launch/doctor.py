"""Say what works on this machine: versions, devices, file formats, a kernel's answer and speed.

    python -m launch.doctor

Status 0: everything the package needs works; 2: something is broken (marked ✗ and repeated last).
"""

from __future__ import annotations

from collections.abc import Sequence

from launch.common import EXIT_BAD_INPUT, run_main
from sxt_jax.pipelines.examine_machine import Finding, examine_machine


def format_findings(findings: Sequence[Finding]) -> str:
    """One line a finding, under the name of its topic."""
    width = max(len(finding.name) for finding in findings)
    lines, topic = [], ''
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            lines.append(f'\n{topic}')
        lines.append(f'  {"✓✗"[not finding.works]} {finding.name:<{width}}  {finding.found}')
    return '\n'.join(lines)


def main(argv: Sequence[str]) -> int:
    del argv
    findings = examine_machine()
    print(format_findings(findings))
    broken = [finding for finding in findings if not finding.works]
    for finding in broken:
        print(f'\nbroken: {finding.topic}, {finding.name}: {finding.found}')
    if not broken:
        print('\nEverything the package needs works here.')
    return EXIT_BAD_INPUT if broken else 0


if __name__ == '__main__':
    run_main(main)
