;; $n calls of the host, each followed by $work steps of about four cycles.
(module
  (import "bench" "tick" (func $tick (param i32) (result i32)))
  (func (export "run") (param $n i32) (param $work i32) (result i32) (local $x i32) (local $i i32)
    (loop $again
      (local.set $x (call $tick (local.get $x)))
      (if (local.tee $i (local.get $work))
        (then
          (loop $step
            (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 31)) (local.get $i)))
            (br_if $step (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $x)))
