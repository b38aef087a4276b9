include "_frame.pxd"
include "_relay.pxd"
