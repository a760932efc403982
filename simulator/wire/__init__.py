"""The wire: SOAP over HTTPS as pyVmomi and govc speak it."""
