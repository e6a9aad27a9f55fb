;; A short call: $n steps of about four cycles, and a memory as every real guest has one.
(module
  (memory (export "memory") 2)
  (func (export "run") (param $n i32) (result i32) (local $x i32)
    (loop $step
      (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 31)) (local.get $n)))
      (br_if $step (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i32.store (i32.const 1024) (local.get $x))
    (local.get $x)))
