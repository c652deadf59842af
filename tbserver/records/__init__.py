"""The tables. Each row belongs to a tenant; moments are whole seconds since 1970.

What is counted for people is kept as counts (`Tally`), and what is listed can be read on from a key, so that nothing
becomes slower because there are many devices. Secrets are stored as digests.
"""

from tbserver.records.base import Base
from tbserver.records.fleet import Attribute, AutoConfirm, Device, DeviceToken, Group, Member, Tally
from tbserver.records.people import Account, ApiToken, AuditEntry, Login, Notice, Tenant, Throttle, Webhook
from tbserver.records.releases import (
    Artifact,
    Claimed,
    Comparison,
    Making,
    Release,
    Statements,
    TrustedKey,
    Upload,
    Wanted,
)
from tbserver.records.rollouts import Assignment, Progress, Report, Rollout

__all__ = [
    "Account",
    "ApiToken",
    "Artifact",
    "Assignment",
    "Attribute",
    "AuditEntry",
    "AutoConfirm",
    "Base",
    "Claimed",
    "Comparison",
    "Device",
    "DeviceToken",
    "Group",
    "Login",
    "Making",
    "Member",
    "Notice",
    "Progress",
    "Release",
    "Report",
    "Rollout",
    "Statements",
    "Tally",
    "Tenant",
    "Throttle",
    "TrustedKey",
    "Upload",
    "Wanted",
    "Webhook",
]
