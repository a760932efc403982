"""An audit that has ended: it gives the report that it is started with."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from contracts import names
    from contracts.audit import HaRecoveryAuditReport

__all__ = ["EndedAudit"]


@workflow.defn(name=names.HA_RECOVERY_AUDIT)
class EndedAudit:
    """Ends at once."""

    @workflow.run
    async def run(self, report: HaRecoveryAuditReport) -> HaRecoveryAuditReport:
        """The report."""
        return report
