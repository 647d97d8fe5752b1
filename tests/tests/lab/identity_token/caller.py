"""Asks a security token service who the caller is, by the credentials that botocore finds where its users put them."""

import sys

import botocore.session

sts = botocore.session.Session().create_client("sts", region_name="us-east-1", endpoint_url=sys.argv[1])
print(sts.get_caller_identity()["Arn"])
