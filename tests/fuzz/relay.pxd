include "_frame.pxd"
include "_session.pxd"
include "_walk.pxd"
