include "_carriers.pxd"
