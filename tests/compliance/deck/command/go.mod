// decK itself, its command called from a main module of ours: `go install` refuses decK because of
// the replace lines in its go.mod, which are repeated here.
module narthex/tests/compliance/deck/command

go 1.26.4

require github.com/kong/deck v1.65.0

replace github.com/yudai/gojsondiff v1.0.0 => github.com/Kong/gojsondiff v1.3.0

replace gopkg.in/yaml.v3 v3.0.1 => github.com/Kong/yaml v1.0.0
