interface Door {
  open: boolean;
}

export const handler = async (door: Door) => {
  if (!door.open) throw new Error('closed in TypeScript');
};
