;; Calls through a table, four targets in a fixed order.
(module
  (type $step (func (param i32) (result i32)))
  (table funcref (elem $add $xor $rotate $mul))
  (func $add (type $step) (i32.add (local.get 0) (i32.const 77)))
  (func $xor (type $step) (i32.xor (local.get 0) (i32.const 0x5bd1e995)))
  (func $rotate (type $step) (i32.rotl (local.get 0) (i32.const 5)))
  (func $mul (type $step) (i32.mul (local.get 0) (i32.const 31)))
  (func (export "run") (param $n i32) (result i32) (local $x i32)
    (loop $again
      (local.set $x
        (call_indirect (type $step) (local.get $x) (i32.and (local.get $n) (i32.const 3))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $x)))
